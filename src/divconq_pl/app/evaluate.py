"""The program evaluate.py: evaluate checkpoints of train.py, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from divconq_pl.app.checks.images import check_tested
from divconq_pl.app.checks.rehearsal import check_trainer
from divconq_pl.app.checks.values import check_arguments, check_values
from divconq_pl.app.comparison import (
    add_summary_rows,
    check_same_images,
    concatenate,
    find_checkpoints,
    group_by_settings,
    name_checkpoints,
    read_overrides,
)
from divconq_pl.app.evaluation import check_channels, check_protocol, embed, measure
from divconq_pl.app.export import check_export, export_embeddings
from divconq_pl.app.results import check_published, describe_images, describe_protocol, write_json
from divconq_pl.app.table import describe_worst, print_results
from divconq_pl.data import RetrievalDataModule, RetrievalDataset
from divconq_pl.data.dataset import TestProtocol
from divconq_pl.errors import InputError
from divconq_pl.inference.checkpoints import CONFIG_KEY, load_embedder, read_checkpoint, refuse_odd_entries
from divconq_pl.inference.network import MeanOfFlips
from divconq_pl.inference.trust import build_trusted, check_trusted
from divconq_pl.metrics.per_class import list_classes
from divconq_pl.metrics.retrieval import Answers

HINTS = {
    **dict.fromkeys(("json", "export"), str | None),
    **dict.fromkeys(("dataset", "backbone"), object | None),
    **dict.fromkeys(("data", "trainer"), object),
    "evaluation": dict,
    "checkpoint": str | list[str],
    "channels": int,
    "flip": bool,
    "protocol": TestProtocol | None,
    "image_size": int | list[int] | None,
}
"""What the keys of conf/evaluate.yaml hold."""


class Evaluated(NamedTuple):
    """One checkpoint on the test images.

    Attributes:
        row: its results.
        embeddings: one tensor (N, d), or one each for query and gallery.
        images: the images embedded, likewise.
        options: what was measured, as :func:`measure` takes it.
        config: the configuration of the run.
        overrides: what it was asked for, but for seed and fold.
        chosen_by_test: whether the run chose its epoch by these very classes.
    """

    row: dict[str, Any]
    embeddings: list[Tensor]
    images: tuple[RetrievalDataset, ...]
    options: dict[str, Any]
    config: dict[str, Any]
    overrides: list[str]
    chosen_by_test: bool


def main(cfg: DictConfig) -> None:
    """Print the table that train.py printed at its end; for several checkpoints also their mean and concatenation.

    Args:
        cfg: conf/evaluate.yaml, as the user changed it.
    """
    if cfg.dataset and cfg.protocol is None:
        cfg.protocol = "open"  # whatever the run asked for: these are other images
    check_config(cfg)
    paths = find_checkpoints(cfg.checkpoint if isinstance(cfg.checkpoint, str) else list(cfg.checkpoint))
    if cfg.export is not None:
        check_export(cfg.export)
    trainer = make_trainer(cfg)

    evaluated: list[Evaluated] = []
    for path, name in zip(paths, name_checkpoints(paths), strict=True):
        evaluated.append(evaluate_checkpoint(cfg, trainer, path, name, evaluated))
    embeddings, rows = combine(evaluated)

    if cfg.export is not None:
        export_embeddings(cfg.export, embeddings, evaluated[0].images)
    report(cfg, rows, any(one.chosen_by_test for one in evaluated))
    if cfg.export is not None:
        print(f"{sum(map(len, embeddings))} embeddings of {embeddings[0].shape[1]} dimensions: {cfg.export}")


def check_config(cfg: DictConfig) -> None:
    """Refuse values that cannot work, before anything is built.

    Raises:
        InputError: it names the key and the value.
    """
    used = cfg if cfg.dataset else OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "data"])
    check_values(used, **HINTS)
    check_arguments(measure, cfg, "evaluation", recall_ks=list[int] | None)


def make_trainer(cfg: DictConfig) -> pl.Trainer:
    """Build the Trainer that embeds the images."""
    trainer: pl.Trainer
    trainer = instantiate(cfg.trainer, logger=False, limit_predict_batches=cfg.trainer.get("limit_test_batches"))
    check_trainer(trainer, cfg.trainer)
    return trainer


def evaluate_checkpoint(
    cfg: DictConfig, trainer: pl.Trainer, path: Path, name: str, before: Sequence[Evaluated]
) -> Evaluated:
    """Embed the test images with the network of one checkpoint, and measure the embeddings.

    Args:
        cfg: the configuration of this program.
        trainer: embeds the images.
        path: the checkpoint.
        name: its name in the table.
        before: the checkpoints evaluated before, which have to have the same images.

    Raises:
        InputError: if the checkpoint cannot be used, or has other images.
    """
    content = read_checkpoint(path)
    config = content[CONFIG_KEY]
    with refuse_odd_entries(path):
        module = load_embedder(content, instantiate(cfg.backbone))
        if cfg.flip:
            module.backbone = MeanOfFlips(module.backbone)
        data = make_data(cfg, config)
        ks = cfg.evaluation.get("recall_ks") or [int(k) for k in config["module"]["recall_ks"]]
    if cfg.export is not None and before and len(group_by_settings([before[0].config, config])) > 1:
        raise InputError(
            f"the run of {str(path)!r} has other settings than the one before, and their embeddings do not go side by "
            "side; export those of the same settings"
        )
    if not before:
        check_tested(data.tested, exported=cfg.export is not None)
    options = before[0].options if before else {**cfg.evaluation, "recall_ks": ks}
    images = check_same_images(before[-1].images if before else (), data.tested, path)
    embeddings = embed(trainer, module, data)
    row = {**measure_all(embeddings, images, **options), "name": name, "protocol": get_protocol(cfg, config)}
    chosen_by_test = not cfg.dataset and config["data"].get("validate_on") == "test"
    if not cfg.dataset:
        row |= check_published(config.get("published"))
    return Evaluated(row, embeddings, images, options, config, read_overrides(path), chosen_by_test)


def make_data(cfg: DictConfig, config: dict[str, Any]) -> RetrievalDataModule:
    """Build the data module of the images that the user names, as the network takes them, or of the checkpoint's own.

    Args:
        cfg: the configuration of this program.
        config: that of the run that wrote the checkpoint.

    Raises:
        InputError: if the network cannot take the images, or the checkpoint names a part of another package.
    """
    cfg = cfg.copy()
    cfg.protocol = get_protocol(cfg, config)
    check_protocol(cfg.protocol, cfg.dataset or config["data"]["dataset"])
    if not cfg.dataset and "protocol" in config["data"]["dataset"]:
        config["data"]["dataset"]["protocol"] = cfg.protocol
    if not cfg.backbone:
        cfg.channels = config["channels"]
    for key in ("image_size", "preprocessing"):
        if cfg[key] is None:
            cfg[key] = check_trusted(config.get(key), key)
    loading = {
        key: cfg.data[key] for key in ("num_workers", "eval_batch_size", "cache_dir") if cfg.data[key] is not None
    }
    data: RetrievalDataModule
    data = instantiate(cfg.data) if cfg.dataset else build_trusted({**config["data"], **loading}, "dataset")
    check_channels(data, cfg.channels)
    return data


def measure_all(embeddings: Sequence[Tensor], images: Sequence[RetrievalDataset], **options: Any) -> dict[str, Any]:
    """Measure embeddings as :func:`measure` does, with the figures of each class under ``per_class``."""
    answers: list[Answers] = []
    metrics: dict[str, Any] = {**measure(embeddings, images, answers, **options)}
    labels = images[0].targets[: len(embeddings[0])]
    return metrics | ({"per_class": list_classes(answers[0], labels, images[0].classes)} if answers else {})


def get_protocol(cfg: DictConfig, config: Mapping[str, Any]) -> str:
    """Return the protocol asked for, or else that of the run."""
    asked: str = cfg.protocol or config.get("protocol", "open")
    return asked


def combine(evaluated: Sequence[Evaluated]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Put the embeddings and the results of checkpoints together, those of the same settings each.

    Returns:
        The embeddings of the first settings side by side, and the rows of the table: of several checkpoints with the
        same settings also their mean and concatenation.
    """
    groups = group_by_settings([one.config for one in evaluated])
    rows: list[dict[str, Any]] = []
    first: list[Tensor] = []
    for group in groups:
        members = [evaluated[place] for place in group]
        found = [{**one.row, "overrides": one.overrides} if len(groups) > 1 else one.row for one in members]
        together = members[0].embeddings
        if len(members) > 1:
            together = concatenate([one.embeddings for one in members])
            measured = measure_all(together, members[0].images, **members[0].options)
            among = f" of {', '.join(row['name'] for row in found)}" if len(groups) > 1 else ""
            found = add_summary_rows(found, measured, among)
        rows += found
        first = first or together
    return first, rows


def report(cfg: DictConfig, rows: Sequence[dict[str, Any]], chosen_by_test: bool) -> None:
    """Write the results where the user wants them, and print them."""
    if cfg.json:
        write_json(cfg.json, rows[0] if len(rows) == 1 else {row["name"]: row for row in rows})
    if rows[0]["test/classes"] == 1:
        embedded = rows[0]["test/images"] + rows[0].get("test/queries", 0)
        print(f"Embedded {embedded} images of a single class, in which there is nothing to measure: see {cfg.export}")
        return
    title = describe_protocol(rows)
    if chosen_by_test:
        title += ", by which the run chose its best epoch, which inflates the figures"
    title += f": {describe_images(rows)}"
    print_results(rows, title=title)
    if len(rows) == 1:
        print(describe_worst(rows[0]["per_class"]))
