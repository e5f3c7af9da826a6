"""Whether the training step of a published size fits a TPU slice, and at what cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from fitting.errors import InputError
from ladder_jax import experiment
from ladder_jax.config import MeshConfig, RunConfig
from ladder_jax.models.sizes import OLMO2_SIZES

# The compiler alone: no search for this machine's TPUs, no lock against other processes, no log.
COMPILER_ONLY = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_HOST_BOUNDS": "1,1,1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True)
class Request:
    """A size, a slice, and how the step is to be laid out on it.

    Attributes:
        size: a published size, such as `13B`.
        topology: a slice, such as `v5p:8x8x8`.
        mesh: devices of each axis; None takes the least tensor parallelism, then the fewest copies.
        batch_seqs: sequences of a step; None takes the published number, else the recipe's.
        micro_seqs: sequences that a chip computes at once.
        remat: what the backward pass recomputes.
        attention: see `ModelConfig.attention`.
        search: find the fastest mesh, remat policy and micro-batch that fit, instead.

    Raises:
        InputError: `mesh` is given together with `search`.
    """

    size: str
    topology: str
    mesh: Mapping[str, int] | None = None
    batch_seqs: int | None = None
    micro_seqs: int = 1
    remat: str = "full"
    attention: str = "auto"
    search: bool = False

    def __post_init__(self) -> None:
        if self.search and self.mesh:
            raise InputError("`search` chooses the mesh: leave `mesh` out")


def examine(request: Request) -> dict[str, Any]:
    """The result that `ladder compile --json` prints.

    Sets environment variables that JAX reads when it is imported: call it before JAX is.

    Raises:
        InputError: there is no such size or slice, or one does not divide over the other.
    """
    os.environ.update(COMPILER_ONLY)
    from ladder_jax.aot import compile as aot
    from ladder_jax.aot import search

    slice_, run = aot.topology(request.topology), _run_of(request.size)
    model = replace(run.model, attention=request.attention)
    run = replace(run, batch_seqs=request.batch_seqs or run.batch_seqs, model=model)
    if request.search:
        meshes = aot.layouts(run, slice_.n_chips)
        run, compiled = search.search(
            run, meshes, lambda tried, effort: aot.compile_step(tried, slice_, effort)
        )
    else:
        named = MeshConfig(**request.mesh) if request.mesh else None
        mesh = replace(named or aot.layouts(run, slice_.n_chips)[0], micro_seqs=request.micro_seqs)
        run = search.configured(run, mesh, request.remat)
        with Console(stderr=True).status(f"compiling {request.size} for {request.topology}"):
            compiled = aot.compile_step(run, slice_)
    flops, closed = aot.step_flops(run), aot.closed_form_flops(run)
    return {
        "size": request.size,
        "topology": request.topology,
        "chips": slice_.n_chips,
        "mesh": asdict(run.mesh),
        "remat": run.model.remat,
        "attention": run.model.attention,
        "batch_seqs": run.batch_seqs,
        **asdict(compiled),
        "short_by": compiled.short_by,
        "flops": flops,
        "flops_closed_form": closed,
        "flops_ratio": flops / closed,
        "overrides": " ".join(search.overrides(run)),
    }


def _run_of(size: str) -> RunConfig:
    """A run of a published size, with its published batch or the recipe's."""
    if size not in OLMO2_SIZES:
        raise InputError(f"no size {size!r}; there are {', '.join(OLMO2_SIZES)}")
    ladder = experiment.load("task_ladders").ladder
    published = {target.run.size: target.run for target in ladder.targets.values()}
    return published.get(size) or replace(ladder, sizes=OLMO2_SIZES).run(size, 1)
