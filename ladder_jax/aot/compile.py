"""Compiles a training step for a TPU slice without having one: memory, FLOPs, collectives.

libtpu's compiler is the one that real TPUs use; it needs a description of the devices, not them.
"""

from __future__ import annotations

import importlib.util
import math
import re
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.experimental import topologies

from fitting.errors import InputError, first_line
from ladder_jax import parallel
from ladder_jax.config import MeshConfig, RunConfig
from ladder_jax.models import counts
from ladder_jax.models.registry import architecture
from ladder_jax.runtime.hardware import CHIPS, Chip
from ladder_jax.training import initialize, schedule, step

LEAST_EFFORT = -1.0
# Name of a slice -> device kind, dimensions of its torus.
_GENERATIONS = {"v5e": ("TPU v5 lite", 2), "v5p": ("TPU v5", 3), "v6e": ("TPU v6 lite", 2)}
_COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_FUSED_REDUCE_SCATTER = re.compile(r"%all-reduce-scatter\S* \(")
_NEEDED = (  # the compiler's messages about a program that does not fit
    re.compile(r"memory required for HLO temporaries \(([\d.]+)([KMGT]?)\)"),
    re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm"),
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Topology:
    """A slice of TPUs, such as `v5p:8x8x8`."""

    name: str
    n_chips: int
    chip: Chip


@dataclass(frozen=True)
class Compiled:
    """A step for all chips, compiled; bytes are of one chip.

    Attributes:
        fits: whether it compiles, and arguments, temporaries and code fit the memory.
        bytes_parameters: float32 master weights.
        bytes_optimizer: both moments.
        bytes_activations: all temporaries: activations, gradients, gathered weights.
        bytes_total: these, the batch and the program.
        collectives: kind, as HLO names it -> number in the program; a loop's body counts once.
    """

    fits: bool
    bytes_total: int
    hbm_bytes: int
    bytes_parameters: int
    bytes_optimizer: int
    bytes_activations: int
    collectives: dict[str, int]
    compile_seconds: float

    @property
    def short_by(self) -> int:
        """Bytes that a chip has too few; 0 if the step fits."""
        return 0 if self.fits else max(self.bytes_total - self.hbm_bytes, 0)


def topology(name: str) -> Topology:
    """Reads the name of a slice.

    Raises:
        InputError: no such slice.
    """
    generation, _, shape = name.partition(":")
    if generation not in _GENERATIONS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise InputError(
            f"topology {name!r} is not GENERATION:SHAPE, as v5e:4x4, v5p:4x4x4 or v6e:16x16: "
            f"generations are {', '.join(_GENERATIONS)}"
        )
    kind, dimensions = _GENERATIONS[generation]
    sides = [int(side) for side in shape.split("x")]
    if len(sides) != dimensions:
        raise InputError(f"topology {name!r}: a {generation} slice has {dimensions} dimensions")
    return Topology(name, math.prod(sides), CHIPS[kind])


def devices(slice_: Topology) -> list[Any]:
    """Descriptions of a slice's devices.

    Raises:
        InputError: there is no libtpu, or it does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("compiling for TPUs needs libtpu: pip install 'ladder_jax[tpu]'")
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=slice_.name).devices
    except jax.errors.JaxRuntimeError as e:
        raise InputError(f"topology {slice_.name!r}: {first_line(e)}") from None
    return list(found)


def layouts(run: RunConfig, n_chips: int) -> list[MeshConfig]:
    """Meshes of all chips over which batch and parameters divide, best first.

    The least tensor parallelism comes first, then the fewest copies of the parameters.

    Raises:
        InputError: there is none.
    """
    widths, found = architecture(run.model).divisibility(run.model), []
    for tensor in divisors(math.gcd(n_chips, parallel.widest(widths, "tensor"))):
        rows = n_chips // tensor
        fsdp = math.gcd(rows, parallel.widest(widths, "fsdp"))
        if run.batch_seqs % rows == 0:
            found.append(MeshConfig(rows // fsdp, fsdp, tensor))
    if not found:
        raise InputError(
            f"{run.batch_seqs} sequences of {run.size} do not divide over {n_chips} chips, however "
            "they are split: take a smaller slice or another `batch_seqs`"
        )
    return found


def compile_step(run: RunConfig, slice_: Topology, effort: float = 0.0) -> Compiled:
    """Compiles a run's step on its own mesh of all chips of a slice.

    Args:
        run: the run, on the mesh that it names.
        slice_: the chips.
        effort: the compiler's, from `LEAST_EFFORT` to 0; the least takes a third of the time, and
            gives a program that needs more memory.

    Raises:
        InputError: the mesh does not fit the chips, the batch or the model.
    """
    abstract = parallel.abstract_mesh(run.mesh, slice_.n_chips)
    parallel.check_fit(architecture(run.model).divisibility(run.model), abstract)
    n_micro = parallel.micro_batches(run.batch_seqs, run.mesh, abstract)
    mesh = parallel.make_mesh(run.mesh, devices(slice_))
    begin = time.perf_counter()
    with parallel.use_mesh(mesh):
        lowered, state = _lower(run, mesh, n_micro)
        try:
            compiled = lowered.compile({"exec_time_optimization_effort": effort})
        except jax.errors.JaxRuntimeError as e:
            compiled, temporaries = None, _needed(str(e))
    hbm = slice_.chip.hbm_bytes
    arguments, extra, collectives = _own_bytes(state), 0, {}
    if compiled is not None:
        memory: Any = compiled.memory_analysis()
        temporaries, arguments = memory.temp_size_in_bytes, memory.argument_size_in_bytes
        extra = memory.output_size_in_bytes - memory.alias_size_in_bytes
        extra += memory.generated_code_size_in_bytes
        collectives = count_collectives(compiled.as_text() or "")
    total = arguments + temporaries + extra
    return Compiled(
        fits=compiled is not None and total <= hbm,
        bytes_total=total,
        hbm_bytes=hbm,
        bytes_parameters=_own_bytes(state.params),
        bytes_optimizer=_own_bytes(state.moments),
        bytes_activations=temporaries,
        collectives=collectives,
        compile_seconds=time.perf_counter() - begin,
    )


def _lower(run: RunConfig, mesh: Any, n_micro: int) -> tuple[Any, initialize.TrainState]:
    state = initialize.abstract_state(run, mesh)
    micro = architecture(run.model).abstract_batch(run.model, run.batch_seqs // n_micro)
    shards = parallel.micro_batch_sharding(mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((n_micro, *x.shape), x.dtype, sharding=shards), micro
    )
    jitted = step.make_step(run.model, initialize.constants_of(run.optim), mesh)
    return jitted.lower(state, batch, schedule.schedule_of(run.optim, run.n_steps)), state


def step_flops(run: RunConfig) -> int:
    """FLOPs of a whole step as XLA counts them, nothing recomputed and attention not halved.

    XLA counts a loop's body once, and a kernel's work as its author declares it.  So the counts are
    taken of one and two sequences through one and two unrolled layers of plain attention, the loss
    in one piece; FLOPs are linear in both numbers.
    """

    def counted(n_layers: int, n_seqs: int) -> float:
        model = replace(
            run.model,
            n_layers=n_layers,
            scan_layers=False,
            remat="none",
            attention="plain",
            loss_chunk=0,
        )
        small = replace(run, model=model, batch_seqs=n_seqs, mesh=MeshConfig())
        mesh = parallel.make_mesh(small.mesh, jax.devices("cpu")[:1])
        with parallel.use_mesh(mesh):
            analysis: Any = _lower(small, mesh, 1)[0].cost_analysis()
        return analysis["flops"]

    def whole_depth(n_seqs: int) -> float:
        one, two = counted(1, n_seqs), counted(2, n_seqs)
        return one + (run.model.n_layers - 1) * (two - one)

    one, two = whole_depth(1), whole_depth(2)
    return round(one + (run.batch_seqs - 1) * (two - one))


def closed_form_flops(run: RunConfig) -> int:
    """FLOPs of a step's matrix products: 6 (N - norms) + 12 layers D L a token."""
    return counts.flops_per_token(run.model, "matmul") * run.batch_tokens


def count_collectives(hlo: str) -> dict[str, int]:
    """Collectives in the text of an HLO module; asynchronous ones count where they start.

    An all-reduce that XLA fused with the slice of its result is a reduce-scatter.
    """
    found: dict[str, int] = {}
    scatters = False
    for line in hlo.splitlines():
        if line[:1] not in (" ", "}", ""):  # a computation begins
            scatters = bool(_FUSED_REDUCE_SCATTER.match(line))
        for kind in _COLLECTIVE.findall(line):
            name = "reduce-scatter" if scatters and kind == "all-reduce" else kind
            found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def _needed(message: str) -> int:
    """Bytes that a program needs, from the compiler's error message."""
    for pattern in _NEEDED:
        if match := pattern.search(message):
            return round(float(match[1]) * _UNITS[match[2]])
    raise RuntimeError(message)


def _own_bytes(tree: Any) -> int:
    """Bytes that one device holds of a tree of shapes with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def divisors(n: int) -> list[int]:
    """The divisors of a positive number, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]
