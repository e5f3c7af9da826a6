"""Device meshes, and the two tables that map logical axes to mesh axes.

The only importer of `jax.sharding`.  Parameters are sharded by `PARAMETER_RULES`, activations by
`COMPUTE_RULES`; everything else (optimiser moments, gradients) follows its parameter.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from fitting.errors import InputError
from ladder_jax.config import MeshConfig, ModelConfig

AXES = ("data", "fsdp", "tensor")
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

_SAID = 1024  # bytes of a complaint that goes to all processes

_active: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """A (data, fsdp, tensor) mesh over the devices.

    Raises:
        InputError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = _mesh_shape(config, len(devices))
    grid = np.array(devices).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(config: MeshConfig, n_devices: int) -> AbstractMesh:
    """The mesh of as many devices that are nowhere: enough to say how things would lie.

    Raises:
        InputError: the axes do not multiply to the number of devices.
    """
    types = (AxisType.Auto,) * len(AXES)
    return AbstractMesh(_mesh_shape(config, n_devices), AXES, axis_types=types)


def _mesh_shape(config: MeshConfig, n_devices: int) -> tuple[int, int, int]:
    data = config.data
    if data == -1:
        data = max(1, n_devices // (config.fsdp * config.tensor))
    shape = (data, config.fsdp, config.tensor)
    if math.prod(shape) != n_devices:
        raise InputError(
            f"mesh {data} x {config.fsdp} x {config.tensor} needs {math.prod(shape)} devices, "
            f"there are {n_devices}: set mesh.data, mesh.fsdp and mesh.tensor"
        )
    return shape


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Makes `constrain` refer to this mesh while a function is traced."""
    token = _active.set(mesh)
    try:
        yield mesh
    finally:
        _active.reset(token)


def active_mesh() -> Mesh | None:
    """The mesh that `constrain` refers to; part of the key of whatever is compiled under it."""
    return _active.get()


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


def micro_batches(batch_seqs: int, config: MeshConfig, mesh: Mesh | AbstractMesh) -> int:
    """Micro-batches A of a step.

    Raises:
        InputError: the batch does not divide over the devices, or their share by `micro_seqs`.
    """
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_seqs % rows:
        raise InputError(
            f"batch_seqs {batch_seqs} does not divide over {rows} data x fsdp devices: "
            "change the mesh; the recipe's batch stays"
        )
    own = batch_seqs // rows
    if config.micro_seqs and own % config.micro_seqs:
        raise InputError(
            f"mesh.micro_seqs {config.micro_seqs} does not divide the {own} sequences of a device "
            f"(batch_seqs {batch_seqs} over {rows}): set it to one of "
            f"{', '.join(str(d) for d in range(1, own + 1) if own % d == 0)}"
        )
    return own // config.micro_seqs if config.micro_seqs else 1


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


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: of the active mesh, which may be of devices that are not here."""
    mesh = _active.get()
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def on_each_device(function: Any, in_axes: Any, out_axes: Any) -> Any:
    """Maps a function of arrays over the active mesh: each device computes its own parts.

    Args:
        function: of arrays, to be called with the parts that a device holds.
        in_axes: logical axes of each argument.
        out_axes: logical axes of the output.
    """
    mesh = _active.get()
    if mesh is None or mesh.size == 1:
        return function
    specs = [PartitionSpec(*(COMPUTE_RULES[a] for a in axes)) for axes in (*in_axes, out_axes)]
    return jax.shard_map(
        function, mesh=mesh, in_specs=tuple(specs[:-1]), out_specs=specs[-1], check_vma=False
    )


def put_rows(array: np.ndarray) -> Any:
    """An array that every process holds whole, its first axis sharded over the active mesh."""
    mesh = _active.get()
    if mesh is None or mesh.size == 1:
        return array
    return jax.make_array_from_callback(array.shape, batch_sharding(mesh), array.__getitem__)


def row_shards() -> int:
    """Into how many parts the active mesh splits the rows of a batch."""
    mesh = _active.get()
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def is_primary() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def agreed(tree: Any) -> Any:
    """The first process's arrays and numbers, on every process, to the bit."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.atleast_1d(np.asarray(leaf)) for leaf in leaves]
    raw = [np.ascontiguousarray(x).view(np.uint8) for x in arrays]  # JAX would halve 64 bits
    sent = multihost_utils.broadcast_one_to_all(raw)
    pairs = zip(sent, arrays, leaves, strict=True)
    found = [np.asarray(x).view(y.dtype).reshape(np.shape(leaf)) for x, y, leaf in pairs]
    return structure.unflatten(found)


def all_agree(true: bool) -> bool:
    """Whether it is true on every process."""
    return bool(np.all(multihost_utils.process_allgather(np.array(true))))


def on_primary(function: Callable[[], object]) -> None:
    """Runs a function on the first process; what it complains of is raised on all.

    Raises:
        InputError: the function's.
    """
    said = ""
    if is_primary():
        try:
            function()
        except InputError as e:
            if jax.process_count() == 1:
                raise
            said = str(e)
    text = np.frombuffer(said.encode()[:_SAID].ljust(_SAID), np.uint8)
    said = bytes(agreed(text)).decode(errors="ignore").rstrip()
    if said:
        raise InputError(said)


def wait_for_all(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to the compute rules; outside `use_mesh` it does nothing."""
    mesh = _active.get()
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
