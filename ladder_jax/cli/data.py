"""Data at scale: data build."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from fitting.errors import InputError
from ladder_jax.cli import show
from ladder_jax.cli.parsing import AddCommand, Parser, positive

_BUILD = """Tokenise a mixture of sources into array_record shards of packed sequences.

FILE.json lists the texts and their shares; task_ladders is the mixture of the paper.
If the command is killed, the same command continues and gives the same bytes, with any number of
workers; on a finished build it verifies every checksum and rebuilds damaged files.

memory: 0.4 GB per worker and 0.3 GB for the main process, whatever the sizes of the sources; a
document above 5 MB takes 20 times its size, and the sample on which a tokenizer is trained is in
memory, too.  Measured by python -m experiments.benchmarks.data_build.
"""


def add(command: AddCommand) -> None:
    """Adds data build."""
    example = "ladder data build --mixture mixture.json --out data --workers 2"
    data = command("data", build, "Build training data: `ladder data build`.", example)
    actions: argparse._SubParsersAction[argparse.ArgumentParser] = data.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=Parser
    )
    sub = actions.add_parser(
        "build", help="tokenise a mixture into shards", description=_BUILD,
        epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sub.add_argument("--mixture", required=True, metavar="FILE.json",
                     help="a file, or the name of a shipped experiment that has a "
                          "mixture.json")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="DIR", help="a directory, or gs://BUCKET/...")
    sub.add_argument("--workers", type=positive, metavar="N",
                     help="processes (default: one per core)")  # fmt: skip


def build(args: argparse.Namespace) -> None:
    """Builds, resumes or verifies the shards of a mixture."""
    from ladder_jax import experiment
    from ladder_jax.data import mixture
    from ladder_jax.data.build import build as build_shards

    if not args.out:
        raise InputError("`out` is empty: name a directory or gs://BUCKET/...")
    workers = args.workers or len(os.sched_getaffinity(0))
    shipped = experiment.shipped_file(args.mixture, "mixture.json")
    path = shipped if not Path(args.mixture).exists() and shipped.is_file() else args.mixture
    done = build_shards(mixture.load(path), args.out, workers)
    rows = [["source", "documents", "tokens", "epochs", "shards"]]
    for name, source in done.index["sources"].items():
        shards = sum(shard["part"] == "train" for shard in source["shards"])
        rows.append([name, f"{source['documents']:,}", f"{source['tokens_given']:,}",
                     f"{source['epochs']:.2f}", f"{shards:,}"])  # fmt: skip
    show.columns(rows)
    tokens = done.index["n_tokens"]
    print(
        f"{args.out}: {tokens['train']:,} tokens to train on, {tokens['heldout']:,} held out; "
        f"{done.made:,} units made, {done.found:,} verified"
    )
