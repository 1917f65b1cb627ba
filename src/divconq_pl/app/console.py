"""What a program says while it runs: beside the progress bar on the terminal, and all of it in its log file.

Hydra sets it up (``hydra.job_logging`` of conf/train.yaml): the root logger has a file and a :class:`Terminal`.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import wrap
from typing import TextIO

from tqdm import tqdm

_PRINTED = "already_printed"
_NOISE = ("💡 Tip", "TPU available")
_TRACEBACK = re.compile(r"\s*Caught \S+ in DataLoader worker.*\n[\w.]+: (.*?)\s*\n(?=, saved)", re.DOTALL)
"""What torch makes of an error in a worker, in Lightning's words on the checkpoint that it wrote for it."""

_LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning", "lightning.pytorch", "lightning.fabric")

_log = logging.getLogger("divconq_pl")


class Terminal(logging.Handler):
    """Write to standard error, above a progress bar if there is one, in lines as wide as the terminal.

    Warnings begin with ``warning:``. What is of no use to whoever watches a run, such as deprecations inside other
    packages, is left to the log file.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it is on the terminal already."""
        message = _TRACEBACK.sub(r" \1", record.getMessage())
        if not hasattr(record, _PRINTED) and not message.startswith(_NOISE):
            text = f"{record.levelname.lower()}: {message}" if record.levelno >= logging.WARNING else message
            if sys.stderr.isatty():
                text = fold(text, shutil.get_terminal_size().columns)
            tqdm.write(text, file=sys.stderr)


def fold(text: str, columns: int) -> str:
    """Break lines that are too wide, preferably before a ``|`` and with the rest indented.

    Example:
        >>> print(fold("division 1 | epoch 2 | 2 clusters: 41 38 images, 9 8 classes", 36))
        division 1 | epoch 2
          | 2 clusters: 41 38 images, 9 8
            classes
    """
    return "\n".join(part for line in text.splitlines() for part in _fold_line(line, max(columns - 1, 20)))


def _fold_line(line: str, width: int) -> Iterator[str]:
    indent = line[: len(line) - len(line.lstrip())]
    first, *rest = line.split(" | ")
    for part in rest:
        if len(first) + len(part) + 3 > width:
            yield from wrap(first, width, subsequent_indent=indent + "    ") or [""]
            first = f"{indent}  | {part}"
        else:
            first += f" | {part}"
    yield from wrap(first, width, subsequent_indent=indent + "    ") or [""]


def say(text: str) -> None:
    """Print what a user asked for to standard output, and keep it in the log file."""
    print(text)
    note(text)


def note(text: str) -> None:
    """Keep in the log file what is on the terminal already."""
    _log.info(text, extra={_PRINTED: True})


def take_over_messages() -> None:
    """Send what Lightning logs through the root logger, or it would write across the progress bar, or twice.

    Its packages give themselves handlers when they are imported.
    """
    for name in _LIGHTNING:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


@contextmanager
def log_warnings() -> Iterator[None]:
    """Send warnings through the root logger, so that they neither break a progress bar nor are missing in the log."""
    show = warnings.showwarning

    def log(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not logging.root.handlers:  # Hydra has not set up anything yet
            show(message, category, filename, lineno, file, line)
        elif issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
            _log.info(f"{filename}:{lineno}: {message}", extra={_PRINTED: True})
        else:
            _log.warning(str(message))

    warnings.showwarning = log
    try:
        yield
    finally:
        warnings.showwarning = show
