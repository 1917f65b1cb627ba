"""Read lists of images: text, comma-separated values and MATLAB files; what does not parse is named by its line."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from divconq_pl.errors import InputError

Columns = Mapping[str, Callable[[str], Any]]
"""Name of each column, and the function that turns its text into a value."""


def parse_whole_number(value: Any) -> int:
    """Return a value as an integer of 0 or more.

    Raises:
        ValueError: if it is anything else.
    """
    text = str(value).removesuffix(".0")  # MATLAB's usual number is a double
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def parse_known(values: Container[Any], convert: Callable[[str], Any] = parse_whole_number) -> Callable[[str], Any]:
    """Return a converter of text to one of the given values, which raises ValueError for any other."""

    def convert_known(text: str) -> Any:
        value = convert(text)
        if value not in values:
            raise ValueError(f"{text!r} is unknown")
        return value

    return convert_known


def read_table(file: Path, columns: Columns, *, header: bool = False, counted: bool = False) -> list[tuple[Any, ...]]:
    """Read lines whose columns are separated by blanks; empty lines are skipped.

    Args:
        file: a text file.
        columns: the columns of a line.
        header: whether the first line holds titles; it is skipped, unless it parses.
        counted: whether the very first line says how many lines follow; a warning says if it is wrong.

    Returns:
        The values of each line.

    Raises:
        InputError: if the file cannot be read or a line does not parse; it names the line.
    """
    lines = [(number, line.split()) for number, line in enumerate(read_lines(file), 1) if line.strip()]
    count = None
    if counted:
        (count,) = _parse(file, *(lines[0] if lines else (1, [])), {"number of images": parse_whole_number})
        del lines[0]
    if header and lines and not _parses(lines[0][1], columns):
        del lines[0]
    rows = [_parse(file, number, fields, columns) for number, fields in lines]
    if count is not None and count != len(rows):
        warnings.warn(f"{str(file)!r} says that it names {count} images, but names {len(rows)}", stacklevel=2)
    return rows


def read_csv(file: Path, columns: Columns) -> list[tuple[Any, ...]]:
    """Read comma-separated values without a header.

    Raises:
        InputError: as :func:`read_table` does.
    """
    try:
        reader = csv.reader(read_lines(file))
        return [_parse(file, reader.line_num, [field.strip() for field in row], columns) for row in reader if row]
    except csv.Error as error:
        raise InputError(f"cannot read {str(file)!r}: {error}") from error


def read_mat(file: Path) -> dict[str, Any]:
    """Read a MATLAB file, with the variables squeezed.

    Raises:
        InputError: if the file cannot be read; it names the file.
    """
    try:
        content: dict[str, Any] = loadmat(str(file), squeeze_me=True)
    except Exception as error:  # OSError, ValueError, NotImplementedError, zlib.error, ...: depending on the damage
        raise InputError(f"cannot read {str(file)!r}: {error}") from error
    return content


def read_mat_rows(file: Path, variable: str, columns: Columns) -> Iterator[tuple[Any, ...]]:
    """Yield some fields of the rows of a struct array in a MATLAB file.

    Raises:
        InputError: if there is no such variable or field, or a value does not parse; it names the row, counted from 1.
    """
    content = read_mat(file)
    if variable not in content:
        names = [name for name in content if not name.startswith("__")]
        raise InputError(f"{str(file)!r} has no variable {variable!r}, only {names}")
    rows = np.atleast_1d(content[variable])  # squeezing removes the axis of a single row
    fields = rows.dtype.names or ()
    if lacking := [name for name in columns if name not in fields]:
        raise InputError(f"{variable!r} of {str(file)!r} has no field {lacking[0]!r}, only {list(fields)}")
    for number, row in enumerate(rows, 1):
        values = [row[name] for name in columns]
        yield _parse(file, number, [str(value) for value in values], columns, "row")


def _parse(file: Path, number: int, fields: Sequence[str], columns: Columns, kind: str = "line") -> tuple[Any, ...]:
    try:
        return _convert(fields, columns)
    except ValueError as error:
        expected = " ".join(f"<{name}>" for name in columns)
        raise InputError(f"{str(file)!r}, {kind} {number}: {' '.join(fields)!r} is not '{expected}'") from error


def _parses(fields: Sequence[str], columns: Columns) -> bool:
    try:
        _convert(fields, columns)
    except ValueError:
        return False
    return True


def _convert(fields: Sequence[str], columns: Columns) -> tuple[Any, ...]:
    return tuple(convert(field) for convert, field in zip(columns.values(), fields, strict=True))


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file, whatever its bytes.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace").split("\n")  # an odd name is found missing later
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error}") from error
