"""What the modules of this folder share: a parser that complains in one line, kinds of values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

Command = Callable[[str, str, str], argparse.ArgumentParser]  # (name, text, example) -> its parser


class Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def processes(sub: argparse.ArgumentParser) -> None:
    """Adds what joins several processes into one run; clusters tell it by environment."""
    sub.add_argument("--coordinator", metavar="HOST:PORT",
                     help="of process 0, where several processes share the work and no TPU, GKE, "
                          "Slurm or MPI environment tells")  # fmt: skip
    sub.add_argument("--process-count", type=positive, metavar="N")
    sub.add_argument("--process-id", type=int, metavar="I", help="of this process, from 0")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
