"""Device meshes, the active one among them, and the share of a batch on each device."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from fitting.errors import InputError
from ladder_jax.config import MeshConfig

AXES = ("data", "fsdp", "tensor")
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
    """A mesh without devices, which is enough to work out shardings.

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
            f"there are {n_devices}: set `mesh.data`, `mesh.fsdp` and `mesh.tensor`"
        )
    return shape


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Makes this the active mesh: `constrain` refers to it while a function is traced."""
    token = _active.set(mesh)
    try:
        yield mesh
    finally:
        _active.reset(token)


def active_mesh() -> Mesh | None:
    """The mesh that `constrain` refers to; it belongs in the key of any cache of compiled code."""
    return _active.get()


def micro_batches(batch_seqs: int, config: MeshConfig, mesh: Mesh | AbstractMesh) -> int:
    """Micro-batches A of a step.

    Raises:
        InputError: the batch does not divide over the devices, or their share by `micro_seqs`.
    """
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_seqs % rows:
        raise InputError(
            f"`batch_seqs` {batch_seqs} does not divide over {rows} data x fsdp devices: "
            "change the mesh; the recipe's batch stays"
        )
    own = batch_seqs // rows
    if config.micro_seqs and own % config.micro_seqs:
        raise InputError(
            f"`mesh.micro_seqs` {config.micro_seqs} does not divide the {own} sequences of a "
            f"device (`batch_seqs` {batch_seqs} over {rows}): set it to one of "
            f"{', '.join(str(d) for d in range(1, own + 1) if own % d == 0)}"
        )
    return own // config.micro_seqs if config.micro_seqs else 1


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: that of the active mesh, or else of this process."""
    mesh = _active.get()
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def row_shards() -> int:
    """Parts into which the active mesh splits the rows of a batch."""
    mesh = _active.get()
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
