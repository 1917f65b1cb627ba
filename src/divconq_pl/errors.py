"""The one error that says: the input is at fault, and here is what would work."""

from __future__ import annotations


class InputError(ValueError):
    """Report input that cannot work, in one sentence that names the value and says what would.

    Everything in this package that refuses what a user gave raises this class, so that an application can turn it
    into one line and an exit code instead of a traceback.
    """
