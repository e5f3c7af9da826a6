"""The cost of a checkpoint: how long training waits, when it is committed, and its bytes.

Command:  python -m experiments.benchmarks.checkpoint_cost
Hardware: any; the disk matters.
Time:     under a minute.
Expected: README.md of this folder.

States are those of training: parameters and two moments in float32.  `blocking_s` is how long
training waits for `Checkpoints.save`, including the digest (`digest_s` is the digest alone);
`durable_s` is the time until the checkpoint is committed.  All are medians, in wall seconds, of
several saves; the first save, which compiles, is left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import common
from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import MeshConfig, ModelConfig, RunConfig
from ladder_jax.training import checkpoint, initialize

MODELS = {
    "d128": ModelConfig(d_model=128, n_heads=4, n_layers=4, d_ff=512, vocab_size=4096),
    "d512": ModelConfig(d_model=512, n_heads=8, n_layers=8, d_ff=2048, vocab_size=16_384),
}
_COMMAND = "python -m experiments.benchmarks.checkpoint_cost"


def main(arguments: list[str] | None = None) -> None:
    """Prints one JSON line per state, and at the end the ratios of the larger to the smaller."""
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {_COMMAND} --directory /scratch --saves 3",
    )  # fmt: skip
    parser.add_argument(
        "--directory", help="a directory on the disk to measure (default: the temporary one)"
    )
    parser.add_argument(
        "--saves", type=int, default=5, help="number of measured saves (default: 5)"
    )
    args = parser.parse_args(arguments)
    found = {}
    for name, model in MODELS.items():
        with tempfile.TemporaryDirectory(prefix="checkpoint-cost-", dir=args.directory) as home:
            found[name] = _cost(model, Path(home), args.saves)
        print(json.dumps(common.rounded({"state": name} | found[name])))
    small, large = found.values()
    ratios = {key: large[key] / small[key] for key in ("bytes", "blocking_s", "durable_s")}
    print(json.dumps(common.rounded({"ratios": ratios})))


def _cost(model: ModelConfig, directory: Path, n_saves: int) -> dict[str, Any]:
    state = initialize.init_state(RunConfig(model=model), parallel.make_mesh(MeshConfig()))
    noise = functools.partial(jax.random.normal, jax.random.key(0))  # zeros would be compressed
    state = jax.tree.map(lambda x: noise(x.shape) if x.ndim else x, state)
    jax.block_until_ready(state)
    rows = []
    for number in range(n_saves + 1):
        checkpoints = checkpoint.Checkpoints(directory / str(number))
        begun = time.perf_counter()
        checkpoint.digest(state)
        digested = time.perf_counter()
        checkpoints.save(1, state, {})
        blocked = time.perf_counter()
        checkpoints.close()
        rows.append((digested - begun, blocked - digested, time.perf_counter() - digested))
    middle = np.median(rows[1:], axis=0).tolist()
    last = [p for p in (directory / str(n_saves)).rglob("*") if p.is_file()]
    return {
        "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "bytes_on_disk": sum(path.stat().st_size for path in last),
        **dict(zip(("digest_s", "blocking_s", "durable_s"), middle, strict=True)),
    }


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"{_COMMAND}: {e}")
