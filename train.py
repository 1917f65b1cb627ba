"""Train an embedding by divide and conquer.

python train.py loss=margin dataset=glyphs divide.split_depth=3
python train.py --help
"""

from __future__ import annotations

import time
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from divconq_pl import DivideConquerCallback
from divconq_pl.app.arguments import check_values
from divconq_pl.app.checkpoints import check_fit, compare_configs, read_checkpoint
from divconq_pl.app.command import CONFIG_KEY, KeepConfig, run_command
from divconq_pl.app.interruption import NoticeDeadWorkers
from divconq_pl.app.pictures import draw_divisions, draw_gallery
from divconq_pl.app.rehearsal import check_trainer, rehearse
from divconq_pl.app.results import how_chosen, print_results, published, selection, write_json
from divconq_pl.app.stopping import StopBetweenBatches

CONFIG_DIR = Path(__file__).parent / "conf"
KINDS = {
    **dict.fromkeys(("seed", "channels"), int),
    **dict.fromkeys(("data", "module", "trainer", "checkpoint"), object),
    **dict.fromkeys(("callbacks", "logger"), dict[str, object | None] | None),
    "divide": dict | None,
    "published": dict | None,
    "ckpt_path": str | None,
    "image_size": int | None,
}


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Train, test the best checkpoint, and leave results, pictures and checkpoints in the run folder.

    Returns:
        Recall@1 of the best epoch on the validation classes, for sweeps that optimise it; without any, of the test.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    check_values(cfg, **KINDS)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    figures = published(cfg.published)
    resumed = None if cfg.ckpt_path is None else read_checkpoint(cfg.ckpt_path, "ckpt_path")

    data = instantiate(cfg.data)
    cfg.num_classes = len(data.splits.train.classes)
    module = instantiate(cfg.module)
    if resumed is not None:
        check_fit(module, resumed["state_dict"])
        if change := compare_configs(resumed[CONFIG_KEY], OmegaConf.to_container(cfg, resolve=True)):
            print(change)
    rehearse(module, data)
    divides = cfg.divide and "_target_" in cfg.divide  # divide=none may leave what an experiment says about it
    # Undivided training has it, too: it makes resuming exact.
    divide: DivideConquerCallback = instantiate(cfg.divide) if divides else DivideConquerCallback(split_depth=0)
    checkpoint: ModelCheckpoint | None = instantiate(cfg.checkpoint) if data.validates else None
    named = [*instantiate(cfg.callbacks or {}).values(), divide, checkpoint]
    callbacks = [*filter(None, named), KeepConfig(cfg), NoticeDeadWorkers(), StopBetweenBatches()]
    loggers = filter(None, instantiate(cfg.logger or {}).values())
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=list(loggers))
    check_trainer(trainer)

    began = time.perf_counter()
    try:
        trainer.fit(module, data, ckpt_path=cfg.ckpt_path)
    except (SystemExit, Exception) as stop:  # the first is what the Trainer makes of Ctrl-C and SIGTERM
        kept = [path for path in Path(cfg.checkpoint.dirpath).glob("*.ckpt") if path.stem != cfg.checkpoint.filename]
        newest = max(kept, key=lambda path: path.stat().st_mtime, default=cfg.ckpt_path)
        if trainer.interrupted and newest:
            print(f"interrupted; go on with ckpt_path={newest}")
        elif trainer.interrupted and isinstance(stop, SystemExit):
            print("interrupted before the first step")
        raise
    seconds = time.perf_counter() - began
    divisions = list(divide.history)  # the test restores those of the best epoch
    draw_divisions(folder / "pictures", data.splits.train, divide)

    best = checkpoint.best_model_path if checkpoint else ""  # also empty if validation is switched off
    tested = trainer.test(module, data, ckpt_path=best or None, verbose=False)[0]
    draw_gallery(folder / "pictures", trainer, module, data)
    results = {
        **tested,
        "train/seconds": seconds,
        "division/seconds": sum(s for summary in divisions for key, s in summary.items() if key.startswith("seconds_")),
        "seed": cfg.seed,
        "selection": selection(data.validate_on, validated=bool(best)),
        "overrides": list(HydraConfig.get().overrides.task),
        "name": folder.name,
        **figures,
    }
    if checkpoint and checkpoint.best_model_score is not None:
        results[cfg.checkpoint.monitor] = float(checkpoint.best_model_score)
    write_json(folder / "results.json", results)
    print_results([results], title=f"Unseen classes, {how_chosen([results])}")
    print(f"everything of this run is in {folder}")
    return float(results.get(cfg.checkpoint.monitor, results["test/recall_at_1"]))


if __name__ == "__main__":
    run_command(main, CONFIG_DIR, "train")
