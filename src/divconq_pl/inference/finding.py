"""Find the checkpoint that a user names."""

from __future__ import annotations

from pathlib import Path

from divconq_pl.errors import InputError


def find_best(run: str | Path) -> Path | None:
    """Return the checkpoint of the best epoch in the folder of a run; the last one where there is no best.

    Args:
        run: the folder.

    Returns:
        None if it holds neither.
    """
    files = (Path(run) / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    return next((file for file in files if file.is_file()), None)


def find_file(path: Path, key: str = "path") -> Path:
    """Return the checkpoint that a path stands for: that of the best epoch, if it is the folder of a run.

    Raises:
        InputError: if it is a folder of something else.
    """
    if not path.is_dir():
        return path
    if (found := find_best(path)) is not None:
        return found
    if lying := sorted(path.glob("*.ckpt")):
        raise InputError(f"{key}={str(path)!r} holds checkpoints; give one of them, such as {lying[0].name!r}")
    if runs := [run.parent for run in sorted(path.glob("*/checkpoints"))]:
        raise InputError(f"{key}={str(path)!r} holds several runs; give one of them, such as {str(runs[0])!r}")
    raise InputError(f"{key}={str(path)!r} holds no checkpoint; give the folder of a run, or a file")


def list_checkpoints(run: Path) -> list[Path]:
    """List the checkpoints of a run by age; the last is the one to go on from, for that of the best epoch comes first.

    Args:
        run: the folder, or its folder ``checkpoints``.
    """
    found = [*run.glob("*.ckpt"), *(run / "checkpoints").glob("*.ckpt")]
    return sorted(found, key=lambda file: (file.stem != "best", file.stat().st_mtime_ns))


def find_newest(path: str | Path) -> Path:
    """Return the checkpoint of a run to go on from, if a path is that of its folder, and the path if not.

    Args:
        path: ``ckpt_path``: a file, the folder of a run, or its folder ``checkpoints``.

    Raises:
        InputError: if the folder holds no checkpoint.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if not (found := list_checkpoints(path)):
        raise InputError(f"ckpt_path={str(path)!r} holds no checkpoint; give the folder of a run, or a file")
    return found[-1]


def check_is_file(path: Path, key: str) -> None:
    """Refuse a checkpoint that is not there.

    Args:
        path: the file.
        key: what the user calls it.

    Raises:
        InputError: if there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{key}={str(path)!r} is not a file; a run leaves its checkpoints in its folder 'checkpoints'")
