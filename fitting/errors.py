"""The exception for bad input, and the first line of any other exception's message."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input; the message is one line that says what is wrong, where, and what to do.

    Arguments of functions and fields of configs stand in backquotes, as in "`train` 'x*' matches no
    run": the command line shows its own flag instead.
    """


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an exception's message, or the name of its class if it has no message.

    Args:
        error: raised by a library.
        limit: characters after which the line is cut.
    """
    strerror = getattr(error, "strerror", None)
    lines = (strerror or str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit]
