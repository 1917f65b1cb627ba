"""Evaluate a checkpoint of train.py on the unseen classes, without training.

python evaluate.py checkpoint=outputs/.../checkpoints/best.ckpt
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from divconq_pl.app import CONFIG_KEY, run_command
from divconq_pl.checkpoint import build_trusted, check_trusted, load_embedder, read_checkpoint
from divconq_pl.errors import InputError
from divconq_pl.report import print_results, write_json

CONFIG_DIR = Path(__file__).parent / "conf"


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Print the table that train.py printed at its end."""
    if OmegaConf.is_missing(cfg, "checkpoint"):
        raise InputError("no checkpoint given; use checkpoint=PATH, a run leaves its own in its folder 'checkpoints'")
    content = read_checkpoint(cfg.checkpoint)
    module = load_embedder(content, instantiate(cfg.backbone))
    own = content[CONFIG_KEY]["data"]
    data = instantiate(_as_trained(cfg, content).data) if cfg.dataset else build_trusted(own, "dataset")
    trainer = instantiate(cfg.trainer, logger=False)
    results = {**trainer.test(module, data, verbose=False)[0], "name": Path(cfg.checkpoint).name}
    if cfg.json:
        write_json(cfg.json, results)
    print_results([results], title="Unseen classes")


def _as_trained(cfg: DictConfig, content: dict[str, Any]) -> DictConfig:
    """Give other images to the network of a checkpoint as it was given those of the training, unless told otherwise."""
    cfg = cfg.copy()
    for key in ("image_size", "preprocessing"):
        if cfg[key] is None:
            cfg[key] = check_trusted(content[CONFIG_KEY].get(key), key)
    return cfg


if __name__ == "__main__":
    run_command(main, CONFIG_DIR, "evaluate")
