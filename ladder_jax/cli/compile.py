"""Ahead-of-time compilation: compile."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fitting.errors import InputError
from ladder_jax.cli import show

if TYPE_CHECKING:
    from ladder_jax.config import RunConfig

# The compiler alone: no search for this machine's TPUs, no lock against other processes, no log.
_COMPILER_ONLY = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_HOST_BOUNDS": "1,1,1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
}


def compile_step(args: argparse.Namespace) -> None:
    """Compiles the step of a published size for a slice; prints whether and how it fits."""
    names = ("mesh", "batch_seqs", "micro_seqs", "remat", "attention", "search")
    result = examine(args.size, args.topology, **{name: getattr(args, name) for name in names})
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        _print(result)


def examine(
    size: str,
    topology: str,
    mesh: dict[str, int] | None = None,
    batch_seqs: int | None = None,
    micro_seqs: int = 1,
    remat: str = "full",
    attention: str = "auto",
    search: bool = False,
) -> dict[str, Any]:
    """What `ladder compile --json` prints; arguments are those of the command.

    Raises:
        InputError: there is no such size or slice, or one does not divide over the other.
    """
    if search and mesh:
        raise InputError("--search chooses the mesh: leave --mesh out")
    os.environ.update(_COMPILER_ONLY)  # read when JAX is imported
    from ladder_jax import aot
    from ladder_jax.aot import search as search_
    from ladder_jax.config import MeshConfig

    slice_, run = aot.topology(topology), _run_of(size)
    run = replace(
        run,
        batch_seqs=batch_seqs or run.batch_seqs,
        model=replace(run.model, attention=attention),
    )
    if search:
        meshes = aot.layouts(run, slice_.n_chips)
        run, compiled = search_.search(
            run, meshes, lambda tried, effort: aot.compile_step(tried, slice_, effort)
        )
    else:
        chosen = MeshConfig(**mesh) if mesh else aot.layouts(run, slice_.n_chips)[0]
        run = search_.configured(run, replace(chosen, micro_seqs=micro_seqs), remat)
        with Console(stderr=True).status(f"compiling {size} for {topology}"):
            compiled = aot.compile_step(run, slice_)
    flops, closed = aot.step_flops(run), aot.closed_form_flops(run)
    return {
        "size": size,
        "topology": topology,
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
        "overrides": " ".join(search_.overrides(run)),
    }


def _run_of(size: str) -> RunConfig:
    """A run of a published size, with its published batch or the recipe's."""
    from ladder_jax.models.sizes import OLMO2_SIZES

    if size not in OLMO2_SIZES:
        raise InputError(f"no size {size!r}; there are {', '.join(OLMO2_SIZES)}")
    ladder = importlib.import_module("experiments.task_ladders.config").LADDER
    published = {target.run.size: target.run for target in ladder.targets.values()}
    return published.get(size) or replace(ladder, sizes=OLMO2_SIZES).run(size, 1)


def _print(result: dict[str, Any]) -> None:
    mesh = " x ".join(f"{axis} {result['mesh'][axis]}" for axis in ("data", "fsdp", "tensor"))
    print(
        f"{result['size']} on {result['topology']}: {result['chips']} chips, {mesh}; "
        f"{result['batch_seqs']} sequences a step, {result['mesh']['micro_seqs']} at once on a "
        f"chip; remat {result['remat']}"
    )
    rows = [["a chip's memory", "GiB"]]
    for label, key in (
        ("parameters", "bytes_parameters"), ("optimiser", "bytes_optimizer"),
        ("temporaries", "bytes_activations"), ("total", "bytes_total"), ("of", "hbm_bytes"),
    ):  # fmt: skip
        rows.append([label, f"{result[key] / 2**30:.2f}"])
    show.columns(rows)
    short = result["short_by"] / 2**30
    print("fits" if result["fits"] else f"does not fit: short by {short:.2f} GiB a chip")
    print(
        f"FLOPs of a step: {result['flops']:.4g}, {result['flops_ratio']:.4f} of the closed form "
        "6 (N - norms) + 12 layers D L a token"
    )
    kinds = [f"{count} {kind}" for kind, count in result["collectives"].items()]
    print(f"collectives in the program, a loop's once: {', '.join(kinds) or 'none'}")
    print(f"compiled in {result['compile_seconds']:.0f} s; ladder train RUN --out DIR \\")
    print(f"  {result['overrides']}")
