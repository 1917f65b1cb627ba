"""Evaluate checkpoints of train.py on unseen classes, without training.

python evaluate.py checkpoint=outputs/.../checkpoints/best.ckpt
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from divconq_pl.app.arguments import check_arguments, check_values
from divconq_pl.app.checkpoints import build_trusted, check_trusted, explained_by, load_embedder, read_checkpoint
from divconq_pl.app.command import CONFIG_KEY, run_command
from divconq_pl.app.evaluation import (
    check_channels,
    check_same_images,
    compared,
    concatenated,
    embed,
    find_checkpoints,
    measure,
    name_checkpoints,
)
from divconq_pl.app.export import check_export, export_embeddings
from divconq_pl.app.results import print_results, published, write_json
from divconq_pl.data import RetrievalDataModule, RetrievalDataset
from divconq_pl.errors import InputError
from divconq_pl.metrics.retrieval import retrieval_metrics

CONFIG_DIR = Path(__file__).parent / "conf"
KINDS = {
    **dict.fromkeys(("json", "export"), str | None),
    **dict.fromkeys(("dataset", "backbone"), object | None),
    **dict.fromkeys(("data", "trainer"), object),
    "module": dict,
    "checkpoint": str | list[str],
    "channels": int,
    "image_size": int | None,
}


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Print the table that train.py printed at its end; for several checkpoints also their mean and concatenation."""
    if OmegaConf.is_missing(cfg, "checkpoint"):
        raise InputError("no checkpoint given; use checkpoint=PATH, a run leaves its own in its folder 'checkpoints'")
    check_values(cfg if cfg.dataset else OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "data"]), **KINDS)
    check_arguments(retrieval_metrics, cfg, "module", recall_ks=list[int] | None)
    given = cfg.checkpoint
    paths = find_checkpoints(given if isinstance(given, str) else list(given))
    if cfg.export is not None:
        check_export(cfg.export)
    trainer = instantiate(cfg.trainer, logger=False, limit_predict_batches=cfg.trainer.limit_test_batches)

    options: dict[str, Any] = dict(cfg.module)
    ks, title = options.pop("recall_ks"), "Unseen classes"
    embeddings: list[list[Tensor]] = []
    rows: list[dict[str, Any]] = []
    images: tuple[RetrievalDataset, ...] = ()
    for path, name in zip(paths, name_checkpoints(paths), strict=True):
        content = read_checkpoint(path)
        config = content[CONFIG_KEY]
        with explained_by(path):
            module = load_embedder(content, instantiate(cfg.backbone))
            data = _data(cfg, config)
            ks = ks or config["module"]["recall_ks"]
        images = check_same_images(images, data.tested, path)
        embeddings.append(embed(trainer, module, data))
        rows.append({**measure(embeddings[-1], images, ks=ks, **options), "name": name})
        if not cfg.dataset:
            rows[-1] |= published(config.get("published"))
            if config["data"].get("validate_on") == "test":
                title = "Unseen classes, by which the run chose its best epoch, which inflates the figures"
    together = concatenated(embeddings) if len(embeddings) > 1 else embeddings[0]
    if len(rows) > 1:
        rows = compared(rows, measure(together, images, ks=ks, **options))

    if cfg.export is not None:
        export_embeddings(cfg.export, together, images)
    if cfg.json:
        write_json(cfg.json, rows[0] if len(rows) == 1 else {row["name"]: row for row in rows})
    print_results(rows, title=title)


def _data(cfg: DictConfig, config: dict[str, Any]) -> RetrievalDataModule:
    """Return the images that the user names, as the network takes them, or else those of the checkpoint.

    Args:
        cfg: the configuration of this program.
        config: that of the run that wrote the checkpoint.
    """
    cfg = cfg.copy()
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


if __name__ == "__main__":
    run_command(main, CONFIG_DIR, "evaluate")
