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


def find_newest(path: str | Path, key: str = "ckpt_path") -> Path:
    """Return the checkpoint of a run that was written last, if a path is that of its folder, and the path if not.

    That of the best epoch is taken only if there is no other.

    Args:
        path: a file, the folder of a run, or its folder ``checkpoints``.
        key: what the user calls it.

    Raises:
        InputError: if the folder holds no checkpoint.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = [*path.glob("*.ckpt"), *(path / "checkpoints").glob("*.ckpt")]
    if not found:
        raise InputError(f"{key}={str(path)!r} holds no checkpoint; give the folder of a run, or a file")
    return max(found, key=lambda file: (file.stem != "best", file.stat().st_mtime_ns))


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
