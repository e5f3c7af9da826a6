"""Finds the mesh, recomputation and micro-batch of a step that fit a slice of TPUs and are fastest.

In the order of expected speed: less tensor parallelism, then less recomputation, then larger
micro-batches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from tqdm import tqdm

from ladder_jax.aot import compile as aot
from ladder_jax.config import MeshConfig, RunConfig

Compile = Callable[[RunConfig, float], aot.Compiled]
REMAT = ("none", "dots", "full")


def search(
    run: RunConfig, meshes: list[MeshConfig], compile_step: Compile
) -> tuple[RunConfig, aot.Compiled]:
    """The first configuration that fits, or the leanest of the last mesh where none does.

    Memory grows with micro-batches and falls with recomputation: a mesh whose leanest program does
    not fit is passed over, so is a policy whose smallest micro-batch does not, and the largest that
    fits is found by halving.  Tries take the compiler's least effort; what they find is compiled in
    full, and where that does not fit the search goes on below it.

    Args:
        run: what to compile; its mesh and its remat policy are replaced.
        meshes: to try, in order.
        compile_step: (run, effort) -> the compiled step; see `aot.compile_step`.
    """
    with tqdm(desc=f"{run.size}: compiles", unit="", disable=None, leave=False) as bar:

        @functools.cache
        def attempt(mesh: MeshConfig, remat: str, micro: int, effort: float) -> aot.Compiled:
            tried = configured(run, replace(mesh, micro_seqs=micro), remat)
            bar.set_postfix_str(" ".join(overrides(tried)[1::2]))
            result = compile_step(tried, effort)
            bar.update()
            return result

        mesh = meshes[0]
        for mesh in meshes:
            for remat in REMAT:
                micros = aot.divisors(run.batch_seqs // (mesh.data * mesh.fsdp))
                if remat != REMAT[0] and not _fits(attempt, mesh, REMAT[-1], 1):
                    break
                while micros:
                    fits = functools.partial(_fits, attempt, mesh, remat)
                    micros = _up_to_largest(micros, fits)
                    if micros:
                        full = attempt(mesh, remat, micros[-1], 0.0)
                        if full.fits:
                            found = replace(mesh, micro_seqs=micros[-1])
                            return configured(run, found, remat), full
                        micros = micros[:-1]
        leanest = configured(run, replace(mesh, micro_seqs=1), REMAT[-1])
        return leanest, attempt(mesh, REMAT[-1], 1, 0.0)


def configured(run: RunConfig, mesh: MeshConfig, remat: str) -> RunConfig:
    """A run on a mesh, its layers scanned: unrolled ones take minutes to compile."""
    return replace(run, mesh=mesh, model=replace(run.model, remat=remat, scan_layers=True))


def overrides(run: RunConfig) -> list[str]:
    """Arguments of `ladder train` that give a run the layout of this one."""
    values = {
        "mesh.data": run.mesh.data,
        "mesh.fsdp": run.mesh.fsdp,
        "mesh.tensor": run.mesh.tensor,
        "mesh.micro_seqs": run.mesh.micro_seqs,
        "model.remat": run.model.remat,
        "model.attention": run.model.attention,
        "model.scan_layers": str(run.model.scan_layers).lower(),
    }
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def _fits(attempt: Callable[..., aot.Compiled], mesh: MeshConfig, remat: str, micro: int) -> bool:
    return attempt(mesh, remat, micro, aot.LEAST_EFFORT).fits


def _up_to_largest(values: list[int], fits: Callable[[int], bool]) -> list[int]:
    """The ascending values up to the largest that fits, where every smaller one fits too."""
    if not fits(values[0]):
        return []
    low, high = 0, len(values)  # the one at `low` fits; none from `high` on does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(values[middle]) else (low, middle)
    return values[: low + 1]
