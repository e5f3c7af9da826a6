"""Parts that the command groups share: the parser, common flags, and types of values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import NoReturn, Protocol

Run = Callable[[argparse.Namespace], None]


class AddCommand(Protocol):
    """Adds a command: its name, its function, one line on what it does, and an example."""

    def __call__(self, name: str, run: Run, text: str, example: str) -> argparse.ArgumentParser: ...


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def processes(sub: argparse.ArgumentParser) -> None:
    """Adds the flags that join several processes into one run; on clusters the environment does."""
    sub.add_argument("--coordinator", metavar="HOST:PORT",
                     help="address of process 0; needed if several processes share the work and no "
                          "TPU, GKE, Slurm or MPI environment says it")  # fmt: skip
    sub.add_argument("--process-count", type=positive, metavar="N")
    sub.add_argument("--process-id", type=int, metavar="I", help="number of this process, from 0")


def add_train(sub: argparse.ArgumentParser, text: str, default: list[str] | None = None) -> None:
    """Adds the flags that select the training runs: `--train`, and `--exclude` from these.

    Args:
        sub: parser of the command.
        text: help of `--train`.
        default: patterns without `--train`; None if the flag is required.
    """
    sub.add_argument("--train", required=default is None, default=default, nargs="+",
                     metavar="PATTERN", help=text)  # fmt: skip
    sub.add_argument("--exclude", nargs="+", action="extend", default=[], metavar="RUN",
                     help="leave these runs out of --train (shell patterns)")  # fmt: skip


def add_chance(sub: argparse.ArgumentParser) -> None:
    """Adds the flag for accuracies of guessing."""
    sub.add_argument("--chance", nargs="+", default=[], metavar="TASK=P",
                     help="accuracy of guessing, if a task's label does not say it")  # fmt: skip


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def in_flags(message: str, sub: argparse.ArgumentParser) -> str:
    """Replaces names of arguments in a library's message by the command's flags.

    Args:
        message: names arguments in backquotes: "`train` 'x' matches no run".
        sub: the command's parser; names without a flag are kept.
    """
    flags = {a.dest: a.option_strings[-1] for a in sub._actions if a.option_strings}
    return re.sub(r"`([\w.]+)`", lambda m: flags.get(m[1], m[0]), message)
