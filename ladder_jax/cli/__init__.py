"""The front door: `ladder COMMAND`.  Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from fitting.errors import InputError
from ladder_jax.arguments import parser
from ladder_jax.cli import advice, compile, data, evals, forecasts, models, runs, tables
from ladder_jax.runtime import distributed
from ladder_jax.runtime.preemption import EXIT_CODE, Preempted


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 only on success."""
    top = parser(_COMMANDS)
    args, extra = top.parse_known_args(arguments)
    if extra and args.command not in ("train", "run"):
        top.error(f"unrecognized arguments: {' '.join(extra)}")
    args.overrides = extra
    try:
        args.run(args)
    except InputError as e:
        print(f"ladder {args.command}: {with_flags(str(e), args.parser)}", file=sys.stderr)
        distributed.leave(2)
        return 2
    except Preempted:
        print(
            f"ladder {args.command}: told to end; saved, the same command goes on", file=sys.stderr
        )
        return EXIT_CODE
    except BrokenPipeError:  # `ladder plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"ladder {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def with_flags(message: str, parser: argparse.ArgumentParser) -> str:
    """A library's message with the command's flags in place of the names of arguments.

    Args:
        message: names arguments and fields in backquotes, as in "`train` 'x*' matches no run".
        parser: of the command; an option is found by its destination.
    """
    flags = {
        action.dest: max(action.option_strings, key=len)
        for action in parser._actions
        if action.option_strings
    }
    return re.sub(r"`([\w.]+)`", lambda match: flags.get(match[1], match[0]), message)


_COMMANDS = {
    "plan": runs.plan,
    "download": tables.download,
    "data": data.build,
    "run": runs.run,
    "status": runs.status,
    "train": runs.train,
    "eval": evals.evaluate,
    "import-hf": models.import_hf,
    "export-hf": models.export_hf,
    "measure": tables.measure,
    "predict": forecasts.predict,
    "score": forecasts.score,
    "backtest": advice.backtest,
    "next": advice.next_run,
    "compile": compile.compile_step,
}
