"""Folders of runs are never overwritten; a sweep goes on after a run that fails, and ends in a table."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from divconq_pl.app.command import choose_exit_code, end_with_error
from divconq_pl.app.explanation import explain
from divconq_pl.app.going_on import (
    FAILURE_FILE,
    SWEEP_FILE,
    begin_folder,
    end_sweep,
    is_search,
    list_unfinished,
    read_sweep,
    spell_sweep,
)
from divconq_pl.app.results import collect_runs, write_json

_FAULT = 1


class RunFolders(Callback):
    """Refuse a run folder that holds something already, go on with a sweep, and report it at its end."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a single run before anything is written; further processes write into it, too."""
        if os.environ.get("LOCAL_RANK", "0") == "0":
            _check_unused("hydra.run.dir", config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a sweep before anything is written, or look what the same sweep has left in it."""
        hydra, folder = config.hydra, Path(config.hydra.sweep.dir)
        if is_search(hydra) and config.data.validate_on != "val":
            end_with_error("a search chooses by the validation classes: leave out selection=...")
        try:
            before = read_sweep(folder)
        except Exception as error:  # whatever it is that lies there
            end_with_error(f"{str(folder / SWEEP_FILE)!r} cannot be read ({error}); choose another hydra.sweep.dir=...")
        now = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        if before is None:
            _check_unused("hydra.sweep.dir", hydra.sweep.dir, spell_sweep(hydra))
        elif before != now:
            end_with_error(
                f"the sweep in {str(folder)!r} was started with {' '.join(before)!r}; give the same to go on with it, "
                "or choose another hydra.sweep.dir=..."
            )
        elif is_search(hydra) and hydra.sweeper.get("sampler", {}).get("seed", 0) is None:
            end_with_error(f"the search in {str(folder)!r} has no hydra.sweeper.sampler.seed, so it cannot be repeated")
        else:
            begin_folder(folder, spell_sweep(hydra))
            waiting = [why is not None for _, _, why in list_unfinished(folder)]
            print(
                f"going on with the sweep in {folder}: {len(collect_runs(folder))} finished, "
                f"{sum(waiting)} failed, {len(waiting) - sum(waiting)} stopped"
            )
        OmegaConf.save(config, folder / SWEEP_FILE)

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any) -> None:
        """Note what a run of a sweep may change for those after it."""
        self._program, self._arguments, self._environment = task_function, sys.argv[:], dict(os.environ)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note that a run of a sweep has failed, and let the others go on."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        sys.argv[:] = self._arguments
        os.environ.clear()
        os.environ.update(self._environment)
        if job_return.status == JobStatus.FAILED:
            folder, error = Path(config.hydra.runtime.output_dir), job_return._return_value  # or it would be raised
            code, message = self._explain(error, job_return)
            print(f"error: run {folder.name} of the sweep has failed: {message}", file=sys.stderr)
            trace = "".join(traceback.format_exception(error))
            if code == _FAULT:
                print(trace, file=sys.stderr)
            write_json(folder / FAILURE_FILE, {"message": message, "code": code, "traceback": trace})
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None  # which Optuna takes for a failure

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report the sweep, and end with the exit code of its failures if there are any."""
        from divconq_pl.app.sweeps import report_sweep  # scipy takes its time, in each process of a launcher

        end_sweep()
        folder = Path(config.hydra.sweep.dir)
        if collect_runs(folder):
            report_sweep([folder], folder)
        codes = [_FAULT if why is None else why["code"] for _, _, why in list_unfinished(folder)]
        if codes:
            runs = f"{len(codes)} run{'s' if len(codes) > 1 else ''} of the sweep"
            end_with_error(f"{runs} did not finish; to try again: {spell_sweep(config.hydra)}", min(codes))

    def _explain(self, error: Any, job: JobReturn) -> tuple[int, str]:
        code = choose_exit_code(error, self._program)
        if code is None:
            return _FAULT, traceback.format_exception_only(error)[-1].strip()
        assert job.hydra_cfg is not None
        hydra = job.hydra_cfg.hydra
        (home,) = (source.path for source in hydra.runtime.config_sources if source.provider == "main")
        return code, explain(error, list(job.overrides or []), Path(home), hydra.job.config_name)


def _check_unused(name: str, folder: str, command: str | None = None) -> None:
    path = Path(folder)
    try:
        held = begin_folder(path, command)
        occupied = [entry for entry in held if entry.name != ".hydra" and entry.suffix != ".log"]
        if not occupied:
            (path / ".writable").touch()
            (path / ".writable").unlink()
    except OSError as error:
        end_with_error(f"the run folder {folder!r} cannot be written ({error.strerror}); choose another {name}=...")
    if occupied:
        end_with_error(f"the run folder {folder!r} is not empty, and nothing is overwritten; choose another {name}=...")
