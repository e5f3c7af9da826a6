"""What the command line takes: commands, flags, help with examples; a module a group."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from ladder_jax.arguments import compile, data, evals, forecasts, runs
from ladder_jax.arguments.parsing import Parser


def parser(commands: Mapping[str, Callable[[argparse.Namespace], None]]) -> argparse.ArgumentParser:
    """The parser; a parsed command's function is `args.run`, from `commands` by its name."""
    top = Parser(
        prog="ladder",
        description="Forecast what a language model will be able to do before it is trained.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  ladder plan task_ladders",
    )
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=commands[name], parser=sub)
        return sub

    for group in (runs, data, evals, forecasts, compile):
        group.add(command)
    return top
