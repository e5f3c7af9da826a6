"""The command line: `ladder COMMAND`.  Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fitting.errors import InputError
from ladder_jax.cli import advice, compile, data, evals, forecasts, models, runs, tables
from ladder_jax.cli.parsing import Parser, Run, in_flags
from ladder_jax.runtime import distributed
from ladder_jax.runtime.preemption import EXIT_CODE, Preempted

_GROUPS = (runs, data, tables, evals, models, forecasts, advice, compile)
_TAKES_OVERRIDES = ("train", "run")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 only on success."""
    top = parser()
    args, extra = top.parse_known_args(arguments)
    if extra and args.command not in _TAKES_OVERRIDES:
        top.error(f"unrecognized arguments: {' '.join(extra)}")
    args.overrides = extra
    try:
        args.run(args)
    except InputError as e:
        print(f"ladder {args.command}: {in_flags(str(e), args.sub)}", file=sys.stderr)
        distributed.leave(2)
        return 2
    except Preempted:
        message = "stop requested; everything is saved, and the same command continues"
        print(f"ladder {args.command}: {message}", file=sys.stderr)
        return EXIT_CODE
    except BrokenPipeError:  # `ladder plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"ladder {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; a parsed command's function is `args.run`."""
    top = Parser(
        prog="ladder",
        description="Forecast what a language model will be able to do before it is trained.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  ladder plan task_ladders",
    )
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Run, text: str, example: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run, sub=sub)
        return sub

    for group in _GROUPS:
        group.add(command)
    return top
