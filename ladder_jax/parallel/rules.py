"""Two tables that map logical axes to mesh axes, and the shardings that follow from them.

Parameters are sharded by `PARAMETER_RULES`, activations by `COMPUTE_RULES`; everything else
(optimiser moments, gradients) follows its parameter.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from fitting.errors import InputError
from ladder_jax.config import ModelConfig
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
    """Shardings of a tree of logical axes, such as `decoder.logical_axes` gives."""
    return jax.tree.map(
        lambda a: parameter_sharding(mesh, a), axes, is_leaf=lambda a: type(a) is tuple
    )


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Sharding of a batch: rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(COMPUTE_RULES["batch"]))


def micro_batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Sharding of a step's micro-batches, (A, B, L + 1): the rows of each as `batch_sharding`."""
    return NamedSharding(mesh, PartitionSpec(None, COMPUTE_RULES["batch"]))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of a scalar, or of anything that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def own_rows(n_micro: int, batch_seqs: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a step's batch this process's devices hold, ascending."""
    rows = np.arange(batch_seqs).reshape(n_micro, -1)
    parts = micro_batch_sharding(mesh).addressable_devices_indices_map(rows.shape).values()
    return np.unique(np.concatenate([rows[part].ravel() for part in parts if part is not None]))


def put_batch(rows: np.ndarray, own: np.ndarray, n_micro: int, batch_seqs: int, mesh: Mesh) -> Any:
    """A step's batch on the devices, (A, B, L + 1), from the rows that this process has.

    Args:
        rows: of shape (len(own), L + 1).
        own: what `own_rows` gave.
        n_micro: micro-batches A.
        batch_seqs: A x B.
        mesh: the devices.
    """
    shape = (n_micro, batch_seqs // n_micro, rows.shape[-1])
    shards = micro_batch_sharding(mesh)
    if shards.is_fully_addressable:
        return jax.device_put(rows.reshape(shape), shards)
    index = np.arange(batch_seqs).reshape(shape[:2])

    def part(where: Any) -> np.ndarray:
        return rows[np.searchsorted(own, index[where[:2]])]

    return jax.make_array_from_callback(shape, shards, part)


def on_each_device(function: Any, in_axes: Any, out_axes: Any) -> Any:
    """Maps a function of arrays over the active mesh: each device computes its own parts.

    Args:
        function: of arrays, to be called with the parts that a device holds.
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


def put_rows(array: np.ndarray) -> Any:
    """An array that every process holds whole, its first axis sharded over the active mesh."""
    mesh = active_mesh()
    if mesh is None or mesh.size == 1:
        return array
    return jax.make_array_from_callback(array.shape, batch_sharding(mesh), array.__getitem__)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to the compute rules; outside `use_mesh` it does nothing."""
    mesh = active_mesh()
    if mesh is None or mesh.size == 1:
        return x
    spec = PartitionSpec(*(COMPUTE_RULES[a] for a in axes))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def check_fit(model: ModelConfig, mesh: Mesh | AbstractMesh) -> None:
    """Checks that the parameters divide over the mesh.

    Raises:
        InputError: one line that names what does not.
    """
    widths = {
        "d_model": ("fsdp", model.d_model),
        "d_ff": ("tensor", model.d_ff),
        "n_heads": ("tensor", model.n_heads),
        "n_kv_heads": ("tensor", model.kv_heads),
        "vocab_size": ("tensor", model.vocab_size),
    }
    for name, (axis, width) in widths.items():
        if width % mesh.shape[axis]:
            raise InputError(
                f"model.{name} {width} does not divide over mesh.{axis} {mesh.shape[axis]}: "
                "change the mesh"
            )
