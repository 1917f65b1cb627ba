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
"""Name of each column, and what turns its text into a value."""


def whole_number(value: Any) -> int:
    """Return an integer from 0 on.

    Raises:
        ValueError: if it is something else.
    """
    text = str(value).removesuffix(".0")  # MATLAB's usual number is a double
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def known(values: Container[Any], convert: Callable[[str], Any] = whole_number) -> Callable[[str], Any]:
    """Return what turns a text into one of some values, and raises ValueError for any other."""

    def convert_known(text: str) -> Any:
        value = convert(text)
        if value not in values:
            raise ValueError(f"{text!r} is unknown")
        return value

    return convert_known


def read_table(file: Path, columns: Columns, *, header: bool = False, counted: bool = False) -> list[tuple[Any, ...]]:
    """Read lines of columns that blanks separate; empty lines are passed over.

    Args:
        file: a text file.
        columns: what a line consists of.
        header: whether a line of titles stands above; it is passed over, unless it parses.
        counted: whether the number of lines stands in a line above all; a warning says if it is another.

    Returns:
        The values of each line.

    Raises:
        InputError: if the file cannot be read or a line does not parse; it names the line.
    """
    lines = [(number, line.split()) for number, line in enumerate(_lines(file), 1) if line.strip()]
    count = None
    if counted:
        (count,) = _parse(file, *(lines[0] if lines else (1, [])), {"number of images": whole_number})
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
        reader = csv.reader(_lines(file))
        return [_parse(file, reader.line_num, [field.strip() for field in row], columns) for row in reader if row]
    except csv.Error as error:
        raise InputError(f"cannot read {str(file)!r}: {error}") from error


def read_mat(file: Path) -> dict[str, Any]:
    """Read a MATLAB file, with the variables squeezed.

    Raises:
        InputError: if it is no such file; it names it.
    """
    try:
        content: dict[str, Any] = loadmat(str(file), squeeze_me=True)
    except Exception as error:  # OSError, ValueError, NotImplementedError, zlib.error, ...: as the damage will have it
        raise InputError(f"cannot read {str(file)!r}: {error}") from error
    return content


def mat_rows(file: Path, variable: str, columns: Columns) -> Iterator[tuple[Any, ...]]:
    """Give some fields of the rows of a struct array in a MATLAB file.

    Raises:
        InputError: if there is no such variable or field, or a value is of another kind; it names the row from 1.
    """
    content = read_mat(file)
    if variable not in content:
        names = [name for name in content if not name.startswith("__")]
        raise InputError(f"{str(file)!r} has no variable {variable!r}, only {names}")
    rows = np.atleast_1d(content[variable])  # squeezing leaves nothing of a single row's axis
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


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace").split("\n")  # an odd name is missed, and named
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error}") from error
