"""Device meshes, sharding rules and collectives; the only importer of `jax.sharding`."""

from __future__ import annotations

from ladder_jax.parallel.collectives import (
    agreed,
    all_agree,
    is_primary,
    on_primary,
    wait_for_all,
)
from ladder_jax.parallel.mesh import (
    AXES,
    abstract_mesh,
    active_mesh,
    make_mesh,
    micro_batches,
    platform,
    row_shards,
    use_mesh,
)
from ladder_jax.parallel.rules import (
    COMPUTE_RULES,
    PARAMETER_RULES,
    batch_sharding,
    check_fit,
    constrain,
    micro_batch_sharding,
    on_each_device,
    own_rows,
    parameter_sharding,
    parameter_shardings,
    put_batch,
    put_rows,
    replicated,
    widest,
)

__all__ = [
    "AXES",
    "COMPUTE_RULES",
    "PARAMETER_RULES",
    "abstract_mesh",
    "active_mesh",
    "agreed",
    "all_agree",
    "batch_sharding",
    "check_fit",
    "constrain",
    "is_primary",
    "make_mesh",
    "micro_batch_sharding",
    "micro_batches",
    "on_each_device",
    "on_primary",
    "own_rows",
    "parameter_sharding",
    "parameter_shardings",
    "platform",
    "put_batch",
    "put_rows",
    "replicated",
    "row_shards",
    "use_mesh",
    "wait_for_all",
    "widest",
]
