"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | Path, content: str | Callable[[BinaryIO], object]) -> Path:
    """Write a file under a temporary name beside it, then rename: readers see the old or the new file, never half.

    Args:
        path: Where the file goes; missing folders are made.
        content: A text, or what writes to the open binary file when it is called with it.

    Returns:
        The path.

    Raises:
        OSError: if it cannot be written; it names the file, which is what it was before.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not path.is_file():  # a folder, or a device such as /dev/null
            raise OSError(errno.EEXIST, "it is not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content.encode()) if isinstance(content, str) else content(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from error
    return path
