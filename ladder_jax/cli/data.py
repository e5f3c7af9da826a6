"""Data at scale: data build."""

from __future__ import annotations

import argparse
import os

from fitting.errors import InputError
from ladder_jax.cli import show


def build(args: argparse.Namespace) -> None:
    """Builds, resumes or verifies the shards of a mixture."""
    from ladder_jax.data import mixture
    from ladder_jax.data.build import build as make

    if not args.out:
        raise InputError("--out is empty: name a directory or gs://BUCKET/...")
    workers = args.workers or len(os.sched_getaffinity(0))
    done = make(mixture.load(args.mixture), args.out, workers)
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
