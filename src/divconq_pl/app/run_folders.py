"""Run folders are never overwritten, and the runs of a sweep are compared at its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from divconq_pl.app.command import end_with_error
from divconq_pl.app.differences import compare_sweep
from divconq_pl.app.results import average_over_seeds, collect_runs, describe_images, describe_selection
from divconq_pl.app.table import print_results


class RunFolders(Callback):
    """Refuse a run folder that holds something already, and compare the runs of a sweep at its end."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a single run before anything is written; further processes write into it, too."""
        if os.environ.get("LOCAL_RANK", "0") == "0":
            _check_unused("hydra.run.dir", config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a sweep before anything is written."""
        _check_unused("hydra.sweep.dir", config.hydra.sweep.dir)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print a table of all runs, averaged over seeds."""
        runs = collect_runs(config.hydra.sweep.dir)
        if runs:
            title = f"Results of {config.hydra.sweep.dir}"
            said = filter(None, (title, describe_selection(runs), describe_images(runs)))
            print_results(average_over_seeds(runs), title=", ".join(said))
            for sentence in compare_sweep(runs):
                print(sentence)


def _check_unused(name: str, folder: str) -> None:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = [entry for entry in path.iterdir() if entry.name != ".hydra" and entry.suffix != ".log"]
        if not occupied:
            (path / ".writable").touch()
            (path / ".writable").unlink()
    except OSError as error:
        end_with_error(f"the run folder {folder!r} cannot be written ({error.strerror}); choose another {name}=...")
    if occupied:
        end_with_error(f"the run folder {folder!r} is not empty, and nothing is overwritten; choose another {name}=...")
