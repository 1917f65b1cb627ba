"""The program train.py: train an embedding by divide and conquer, and test its best epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from divconq_pl.app import pictures
from divconq_pl.app.checkpoints import KeepConfig, compare_configs
from divconq_pl.app.checks.images import check_findable, check_images, check_queries
from divconq_pl.app.checks.rehearsal import check_trainer, rehearse
from divconq_pl.app.checks.values import check_arguments, check_values
from divconq_pl.app.console import note, say
from divconq_pl.app.evaluation import check_protocol, embed, measure
from divconq_pl.app.few_images import fit_to_few_images, list_asked
from divconq_pl.app.going_on import score, spell_program, spell_run
from divconq_pl.app.interruption import NoticeDeadWorkers, StopBetweenBatches
from divconq_pl.app.live import ShowDivisions
from divconq_pl.app.loggers import finish, log_settings, log_test
from divconq_pl.app.progress import StageBar, TellTime, describe_plan
from divconq_pl.app.reporting import Notes, collect_notes, list_settings, report_run, timing
from divconq_pl.app.results import (
    RESULTS_FILE,
    check_published,
    describe_images,
    describe_protocol,
    describe_selection,
    name_selection,
    write_json,
)
from divconq_pl.app.runs import Compared, compare_with_plain, write_queries
from divconq_pl.app.saving import read_epoch
from divconq_pl.app.table import describe_worst, print_results
from divconq_pl.data import RetrievalDataModule
from divconq_pl.data.dataset import TestProtocol
from divconq_pl.inference.checkpoints import CONFIG_KEY, check_fit, read_checkpoint
from divconq_pl.inference.finding import find_newest, list_checkpoints
from divconq_pl.lightning._trainer.processes import ending_processes
from divconq_pl.lightning.callback import DivideConquerCallback
from divconq_pl.lightning.journal import PlainJournal
from divconq_pl.lightning.module import DivideConquerModule
from divconq_pl.lightning.resume import ExactResume
from divconq_pl.metrics.per_class import list_classes
from divconq_pl.metrics.retrieval import Answers

HINTS = {
    **dict.fromkeys(("seed", "channels"), int),
    **dict.fromkeys(("data", "module", "trainer", "checkpoint"), object),
    **dict.fromkeys(("callbacks", "logger"), dict[str, object | None] | None),
    "evaluation": dict,
    "divide": dict | None,
    "published": dict | None,
    "protocol": TestProtocol,
    "ckpt_path": str | None,
    "image_size": int | list[int] | None,
}
"""What the keys of conf/train.yaml hold."""


def main(cfg: DictConfig) -> float:
    """Train, test the best checkpoint, and leave results, pictures and checkpoints in the run folder.

    Args:
        cfg: conf/train.yaml, as the user changed it.

    Returns:
        Recall@1 of the best epoch on the validation classes, for sweeps that optimise it; without any, of the test.
    """
    check_config(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if cfg.ckpt_path is not None:
        cfg.ckpt_path = str(find_newest(cfg.ckpt_path))
    resumed = None if cfg.ckpt_path is None else read_checkpoint(cfg.ckpt_path, "ckpt_path")
    data = make_data(cfg)
    if not HydraConfig.get().runtime.choices.get("experiment"):  # which is a recipe as a whole
        fit_to_few_images(cfg, data, list_asked(HydraConfig.get().overrides.task))
    module = make_module(cfg, data, resumed)
    divide = make_division(cfg)
    best: ModelCheckpoint | None = instantiate(cfg.checkpoint) if data.validates else None
    folder = Path(HydraConfig.get().runtime.output_dir)
    live = ShowDivisions(folder / "pictures", data.splits.train, divide)
    trainer = make_trainer(cfg, divide, best, live)
    rank_zero_info("\n".join(describe_plan(trainer, module, data, divide)))
    with ending_processes(trainer):
        seconds = fit(cfg, trainer, module, data, folder)
        notes, spent = collect_notes(trainer), live.seconds  # the test restores the notes of the best epoch
        with timing(spent, "pictures"):
            if trainer.is_global_zero:
                live.draw_last()

        seen: list[Answers] = []
        with timing(spent, "the test"):
            best_path = best.best_model_path if best else ""  # also empty if validation is switched off
            embeddings = embed(trainer, module, data, best_path or None)
            metrics = measure(embeddings, data.tested, seen, **cfg.evaluation)
        log_test(trainer.loggers, metrics, list_settings(cfg), epoch=trainer.current_epoch, step=trainer.global_step)
        if not trainer.is_global_zero:  # of several processes one writes
            return float(metrics.get("test/recall_at_1", float("nan")))
        (answers,) = seen
        asked = data.tested[0].targets[: len(answers.nearest)]
        write_queries(folder, answers, asked.numpy())
        with timing(spent, "pictures"):
            pictures.draw_curves(folder / "pictures", notes)
            pictures.draw_gallery(folder / "pictures", embeddings, data.tested, answers.nearest)

        results = collect_results(cfg, data, best, metrics, seconds, notes)
        results["per_class"] = list_classes(answers, asked, data.tested[0].classes)
        write_json(folder / RESULTS_FILE, results)
        compared = compare_with_plain(folder, spell_program(HydraConfig.get()))
        table = print_run(compared)
        finish(trainer.loggers, sorted((folder / "pictures").glob("*.png")), table, step=trainer.global_step)
        report_run(
            *(folder, cfg, data, notes, compared),
            module=module,
            embeddings=embeddings,
            answers=answers,
            seconds=spent,
        )
        return score(results, cfg.checkpoint.monitor)


def check_config(cfg: DictConfig) -> None:
    """Refuse values that cannot work, before anything is built.

    Raises:
        InputError: it names the key and the value.
    """
    check_values(cfg, **HINTS)
    check_arguments(measure, cfg, "evaluation")
    check_published(cfg.published)
    check_protocol(cfg.protocol, cfg.dataset)


def make_data(cfg: DictConfig) -> RetrievalDataModule:
    """Build the data module, look at its images, and tell the configuration how many classes it trains on.

    Raises:
        InputError: if images cannot be read, or none of those to evaluate on can be found.
    """
    data: RetrievalDataModule = instantiate(cfg.data)
    splits = data.splits
    if data.validates and data.validate_on == "val" and splits.val is not None:
        check_findable((splits.val,), "to validate on", "use selection=last_epoch, or validate on other images")
    check_findable(data.tested, "to test on", "bring two or more of some classes")
    check_images([part for part in (splits.train, splits.val, *data.tested) if part is not None])
    check_queries(data.tested)
    cfg.num_classes = len(data.splits.train.classes)
    return data


def make_module(cfg: DictConfig, data: RetrievalDataModule, resumed: Mapping[str, Any] | None) -> DivideConquerModule:
    """Build the module, and try it on a few images.

    Args:
        cfg: the configuration.
        data: the images.
        resumed: the checkpoint that the run resumes from, if it does.

    Raises:
        InputError: if its parts do not fit together, or it does not fit the checkpoint.
    """
    module: DivideConquerModule = instantiate(cfg.module)
    if resumed is not None:
        check_fit(module, resumed["state_dict"])
        if change := compare_configs(resumed[CONFIG_KEY], OmegaConf.to_container(cfg, resolve=True)):
            rank_zero_warn(change)
    rehearse(module, data)
    return module


def make_division(cfg: DictConfig) -> ExactResume:
    """Build the callback that divides, or what makes a plain training resume exactly."""
    if cfg.divide and cfg.divide.get("_target_"):
        callback: ExactResume = instantiate(cfg.divide)
        return callback
    if given := [text for text in HydraConfig.get().overrides.task if text.startswith("divide.")]:
        rank_zero_warn(f"divide=none divides nothing, so {' '.join(given)} is without effect")
    return ExactResume()


def make_trainer(cfg: DictConfig, divide: ExactResume, best: ModelCheckpoint | None, live: ShowDivisions) -> pl.Trainer:
    """Build the Trainer with its callbacks and loggers.

    Args:
        cfg: the configuration.
        divide: the callback that divides, or makes resuming exact.
        best: the callback that keeps the best epoch, if the run validates.
        live: the callback that shows divisions in loggers.

    Raises:
        InputError: if a setting would make the run fail later.
    """
    configured = [*instantiate(cfg.callbacks or {}).values(), divide, live, best]
    if not isinstance(divide, DivideConquerCallback):
        configured.append(PlainJournal())
    if cfg.trainer.get("enable_progress_bar", True) and not any(isinstance(c, ProgressBar) for c in configured):
        configured.append(StageBar())  # after the division, of which it tells
    callbacks = [*filter(None, configured), KeepConfig(cfg), TellTime(), NoticeDeadWorkers(), StopBetweenBatches()]
    loggers = filter(None, instantiate(cfg.logger or {}).values())
    tested = cfg.trainer.get("limit_test_batches")
    trainer: pl.Trainer
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=list(loggers), limit_predict_batches=tested)
    check_trainer(trainer, cfg.trainer)
    return trainer


def fit(
    cfg: DictConfig, trainer: pl.Trainer, module: DivideConquerModule, data: RetrievalDataModule, folder: Path
) -> float:
    """Train; if that is stopped, say which checkpoint to go on from, and report what there is.

    Returns:
        How many seconds it took.
    """
    log_settings(trainer.loggers, list_settings(cfg))
    began = time.perf_counter()
    try:
        trainer.fit(module, data, ckpt_path=cfg.ckpt_path)
    except (SystemExit, Exception) as stop:  # the Trainer raises SystemExit after Ctrl-C and SIGTERM
        if trainer.is_global_zero:
            hydra = HydraConfig.get()
            if trainer.interrupted and hydra.mode != RunMode.MULTIRUN:  # a sweep says it itself
                kept = [p for p in list_checkpoints(Path(cfg.checkpoint.dirpath)) if p.stem != cfg.checkpoint.filename]
                if newest := [cfg.ckpt_path, *kept][-1]:
                    print(f"interrupted; go on with: {spell_run(hydra, f'ckpt_path={newest}')}")
                elif isinstance(stop, SystemExit):
                    print("interrupted before the first step")
            report_run(folder, cfg, data, collect_notes(trainer))
        raise
    return time.perf_counter() - began


def collect_results(
    cfg: DictConfig,
    data: RetrievalDataModule,
    best: ModelCheckpoint | None,
    metrics: Mapping[str, float],
    seconds: float,
    notes: Notes,
) -> dict[str, Any]:
    """Put together what ``results.json`` says about a run, see :mod:`divconq_pl.app.results`.

    Args:
        cfg: the configuration.
        data: the images.
        best: the callback that kept the best epoch, if the run validates.
        metrics: those of the test.
        seconds: how long the training took.
        notes: what was noted of it.
    """
    hydra, monitor, divisions = HydraConfig.get(), cfg.checkpoint.monitor, notes.divisions
    best_path = best.best_model_path if best else ""
    results = {
        **metrics,
        "epoch": read_epoch(best_path) if best_path else notes.last_epoch,
        "train/seconds": seconds,
        "division/seconds": sum(s for summary in divisions for key, s in summary.items() if key.startswith("seconds_")),
        "seed": cfg.seed,
        "protocol": cfg.protocol,
        "selection": name_selection(data.validate_on, validated=bool(best_path)),
        "overrides": list(hydra.overrides.task),
        "name": Path(hydra.runtime.output_dir).name,
        **check_published(cfg.published),
    }
    if divisions:  # what a gain was seen to depend on, of the first division into as many clusters as there ever were
        first = max(divisions, key=lambda summary: summary["clusters"])
        results |= {f"division/{name}": first[name] for name in ("pairs_kept", "classes_per_cluster", "nmi_classes")}
        results["division/first_epoch"] = divisions[0]["epoch"]
    if best and best.best_model_score is not None:
        results[monitor] = float(best.best_model_score)
    if notes.epochs:
        last = notes.epochs[-1]
        results["last/epoch"] = last["epoch"]
        if monitor in last["metrics"]:
            results[f"last/{monitor}"] = last["metrics"][monitor]
    return results


def print_run(compared: Compared) -> str:
    """Print the results of a run, and whether dividing helped; return the table."""
    rows = [compared.run.results]
    title = f"{describe_protocol(rows)}, {describe_selection(rows)}: {describe_images(rows)}"
    table = print_results(rows, title=title)
    note("\n" + table)
    say(describe_worst(rows[0]["per_class"]))
    say(compared.verdict)
    say(f"everything of this run is in {compared.run.folder}")
    return table
