"""Data at scale: what its command takes."""

from __future__ import annotations

import argparse

from ladder_jax.arguments.parsing import Command, Parser, positive

_BUILD = """Tokenise a mixture of sources into array_record shards of packed sequences.

FILE.json says which texts in which shares; experiments/task_ladders/mixture.json is the paper's.
Killed at any moment, the same command goes on and gives the same bytes, whatever the number of
workers; on a finished build it verifies every checksum and makes anew what is damaged.

memory: 0.4 GB a worker and 0.3 GB for the process that leads them, whatever the sizes of the
sources; a document beyond 5 MB takes 20 times its size, and a sample that a tokenizer is trained on
comes on top.  The figures are of python -m experiments.benchmarks.data_build.
"""


def add(command: Command) -> None:
    """Adds data build."""
    example = "ladder data build --mixture mixture.json --out data --workers 2"
    data = command("data", "Build training data: `ladder data build`.", example)
    actions: argparse._SubParsersAction[argparse.ArgumentParser] = data.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=Parser
    )
    build = actions.add_parser(
        "build", help="tokenise a mixture into shards", description=_BUILD,
        epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    build.add_argument("--mixture", required=True, metavar="FILE.json")
    build.add_argument(
        "--out", required=True, metavar="DIR", help="a directory, or gs://BUCKET/..."
    )
    build.add_argument("--workers", type=positive, metavar="N",
                       help="processes (default: one a core)")  # fmt: skip
