"""The network in files that need nothing of this package, and what they give when they are run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from divconq_pl.inference.embedder import Embedder

INPUT, OUTPUT = "images", "embeddings"
"""What the ONNX file calls what it takes and gives."""

Run = Callable[[Tensor], Tensor]

_SHAPES = ({0: torch.export.Dim("batch", min=1)},)


def trace(embedder: Embedder) -> torch.export.ExportedProgram:
    """Trace a network for any number of images, of the size that it was trained on.

    Args:
        embedder: the network, on the CPU.
    """
    height, width = embedder.image_size or (64, 64)
    example = torch.zeros(2, embedder.preprocess.channels, height, width)
    with torch.no_grad():
        return torch.export.export(embedder.module, (example,), dynamic_shapes=_SHAPES)


def write_torch_export(program: torch.export.ExportedProgram, path: Path, preprocessing: str) -> Run:
    """Write a program of torch.export; the preprocessing travels in it as the extra file ``preprocessing.json``.

    Returns:
        What runs the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that weights may not be on the CPU, where they are
        torch.export.save(program, path, extra_files={"preprocessing.json": preprocessing})
    return torch.export.load(path).module()


def write_onnx(program: torch.export.ExportedProgram, path: Path, preprocessing: str) -> Run:
    """Write an ONNX file; the preprocessing travels in its metadata as ``preprocessing``.

    Returns:
        What runs the file, by onnxruntime on the CPU.
    """
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about parts of itself
        exported = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=_SHAPES,  # or the batch would have the name of a symbol of the trace
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    assert exported is not None  # which it is for dynamo=False only
    exported.model.metadata_props["preprocessing"] = preprocessing
    exported.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return run
