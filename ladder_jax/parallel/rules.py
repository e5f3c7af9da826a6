"""Two tables that map logical axes to mesh axes, and the shardings that follow from them.

Parameters are sharded by `PARAMETER_RULES`, activations by `COMPUTE_RULES`; everything else
(optimiser moments, gradients) follows its parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from fitting.errors import InputError
from ladder_jax.parallel.mesh import active_mesh

PARAMETER_RULES: dict[str | None, Any] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "norm": None,
    "layers": None,
    None: None,
}
COMPUTE_RULES: dict[str | None, Any] = {
    "batch": ("data", "fsdp"),
    "length": None,
    "embed": None,
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    None: None,
}


def parameter_sharding(mesh: Mesh | AbstractMesh, axes: tuple[str | None, ...]) -> NamedSharding:
    """Sharding of a parameter from its logical axes."""
    return NamedSharding(mesh, PartitionSpec(*(PARAMETER_RULES[a] for a in axes)))


def parameter_shardings(mesh: Mesh | AbstractMesh, axes: Any) -> Any:
    """Shardings of a tree whose leaves are tuples of logical axes."""
    return jax.tree.map(
        lambda a: parameter_sharding(mesh, a), axes, is_leaf=lambda a: type(a) is tuple
    )


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Sharding of a batch: rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(COMPUTE_RULES["batch"]))


def micro_batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Sharding of a step's micro-batches, (A, B, ...): axis B over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(None, COMPUTE_RULES["batch"]))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Sharding of a scalar, or of anything that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def own_rows(n_micro: int, batch_seqs: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a step's batch this process's devices hold, ascending."""
    rows = np.arange(batch_seqs).reshape(n_micro, -1)
    parts = micro_batch_sharding(mesh).addressable_devices_indices_map(rows.shape).values()
    return np.unique(np.concatenate([rows[part].ravel() for part in parts if part is not None]))


def put_batch(rows: Any, own: np.ndarray, n_micro: int, batch_seqs: int, mesh: Mesh) -> Any:
    """A step's batch on the devices from the rows that this process has.

    Args:
        rows: a tree of arrays, each of shape (len(own), ...).
        own: which rows these are, as `own_rows` says.
        n_micro: micro-batches A.
        batch_seqs: rows of the batch, A x B.
        mesh: the devices.

    Returns:
        The tree, its arrays of shape (A, B, ...).
    """
    shape = (n_micro, batch_seqs // n_micro)
    shards = micro_batch_sharding(mesh)
    if shards.is_fully_addressable:
        return jax.device_put(jax.tree.map(lambda x: x.reshape(shape + x.shape[1:]), rows), shards)
    index = np.arange(batch_seqs).reshape(shape)

    def place(x: np.ndarray) -> jax.Array:
        def part(where: Any) -> np.ndarray:
            return x[np.searchsorted(own, index[where[:2]])]

        return jax.make_array_from_callback(shape + x.shape[1:], shards, part)

    return jax.tree.map(place, rows)


def on_each_device(function: Any, in_axes: Any, out_axes: Any) -> Any:
    """Maps a function over the active mesh: each device computes its own parts.

    Args:
        function: called with the parts of the arrays that a device holds.
        in_axes: logical axes of each argument.
        out_axes: logical axes of the output.
    """
    mesh = active_mesh()
    if mesh is None or mesh.size == 1:
        return function
    specs = [PartitionSpec(*(COMPUTE_RULES[a] for a in axes)) for axes in (*in_axes, out_axes)]
    return jax.shard_map(
        function, mesh=mesh, in_specs=tuple(specs[:-1]), out_specs=specs[-1], check_vma=False
    )


def put_rows(tree: Any) -> Any:
    """Arrays that every process holds whole, their first axis sharded over the active mesh."""
    mesh = active_mesh()
    if mesh is None or mesh.size == 1:
        return tree
    shards = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, shards, x.__getitem__), tree
    )


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to the compute rules; outside `use_mesh` it does nothing."""
    mesh = active_mesh()
    if mesh is None or mesh.size == 1:
        return x
    spec = PartitionSpec(*(COMPUTE_RULES[a] for a in axes))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def check_fit(widths: Mapping[str, tuple[str, int]], mesh: Mesh | AbstractMesh) -> None:
    """Checks that a model's parameters divide over the mesh.

    Args:
        widths: field of the model's config -> logical axis and width on it.
        mesh: the devices.

    Raises:
        InputError: one line that names what does not.
    """
    for name, (axis, width) in widths.items():
        over = PARAMETER_RULES[axis]
        if over is not None and width % mesh.shape[over]:
            raise InputError(
                f"`model.{name}` {width} does not divide over `mesh.{over}` {mesh.shape[over]}: "
                "change the mesh"
            )


def widest(widths: Mapping[str, tuple[str, int]], mesh_axis: str) -> int:
    """The most devices of a mesh axis over which every width on it divides; see `check_fit`."""
    return math.gcd(*(w for axis, w in widths.values() if PARAMETER_RULES[axis] == mesh_axis))
