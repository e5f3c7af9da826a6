"""Writes sharding/SIZE.json: the sharding of every array on the reference mesh of a size.

Command:  python -m tests.golden.make_sharding
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from ladder_jax import parallel
from ladder_jax.config import MeshConfig, RunConfig
from ladder_jax.models.registry import architecture
from ladder_jax.models.sizes import OLMO2_SIZES
from ladder_jax.training import initialize

FOLDER = Path(__file__).parent / "sharding"
REFERENCE = {  # size -> mesh, sequences of a step
    "190M": (MeshConfig(data=1, fsdp=16, tensor=1, micro_seqs=1), 128),
    "1.3B": (MeshConfig(data=4, fsdp=16, tensor=1, micro_seqs=2), 512),
    "7B": (MeshConfig(data=1, fsdp=64, tensor=1, micro_seqs=4), 1024),
    "13B": (MeshConfig(data=1, fsdp=256, tensor=2, micro_seqs=2), 2048),
}


def describe(size: str) -> dict[str, Any]:
    """Path -> shape, spec, and shape on each device; the tables that they come from."""
    config, batch_seqs = REFERENCE[size]
    run = RunConfig(size=size, model=OLMO2_SIZES[size], mesh=config, batch_seqs=batch_seqs)
    mesh = parallel.abstract_mesh(config, config.data * config.fsdp * config.tensor)
    n_micro = parallel.micro_batches(batch_seqs, config, mesh)
    parallel.check_fit(architecture(run.model).divisibility(run.model), mesh)
    batch = jax.ShapeDtypeStruct(
        (n_micro, batch_seqs // n_micro, run.model.seq_len + 1),
        "int32",
        sharding=parallel.micro_batch_sharding(mesh),
    )
    state = initialize.abstract_state(run, mesh)._asdict() | {"batch": batch}
    return {
        "mesh": asdict(config),
        "arrays": {
            jax.tree_util.keystr(path, simple=True, separator="/"): {
                "shape": list(x.shape),
                "spec": list(x.sharding.spec),
                "per_device": list(x.sharding.shard_shape(x.shape)),
            }
            for path, x in jax.tree_util.tree_leaves_with_path(state)
        },
        "activations": {axis: rule for axis, rule in parallel.COMPUTE_RULES.items() if axis},
    }


def text(size: str) -> str:
    """The content of a size's file, one array per line."""
    tree = describe(size)
    arrays = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(tree["arrays"].items())]
    return (
        f'{{"mesh": {json.dumps(tree["mesh"])},\n "activations": {json.dumps(tree["activations"])},'
        '\n "arrays": {\n' + ",\n".join(arrays) + "\n }}\n"
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for size in REFERENCE:
        (FOLDER / f"{size}.json").write_text(text(size), encoding="utf-8")
