"""Bad input: the exception, a record of one bad row, and the first line of other exceptions."""

from __future__ import annotations

from dataclasses import dataclass


class InputError(ValueError):
    """Bad input; the message is one line that says what is wrong, where, and what to do.

    The message puts arguments of functions and fields of configs in backquotes, for example
    "`train` 'x*' matches no run"; the command line replaces them by its own flags.
    """


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an exception's message, or the name of its class if it has no message.

    Args:
        error: exception of a library.
        limit: greatest number of characters.
    """
    strerror = getattr(error, "strerror", None)
    lines = (strerror or str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit]


@dataclass(frozen=True)
class Problem:
    """One bad row or cell of a file; `row` is None if the problem concerns the whole file."""

    file: str
    row: int | None
    message: str

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file}: row {self.row}"
        return f"{where}: {self.message}"
