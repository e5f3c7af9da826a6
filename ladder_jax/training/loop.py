"""Training: checkpoints that resume to the bit, a log without host syncs, an end on notice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from fitting.errors import InputError
from ladder_jax import config_text, parallel
from ladder_jax.config import RunConfig
from ladder_jax.config_text import first_difference
from ladder_jax.data.pipeline import Packed, prepare, read_ahead
from ladder_jax.models import counts, decoder
from ladder_jax.runtime import hardware, locks, preemption
from ladder_jax.training import run_directory
from ladder_jax.training.checkpoint import Checkpoints
from ladder_jax.training.initialize import TrainState, abstract_state, constants_of, init_state
from ladder_jax.training.metrics_log import MetricsLog
from ladder_jax.training.schedule import schedule_of
from ladder_jax.training.step import make_step

LOG_EVERY = 10


class Diverged(InputError):
    """The loss is NaN or infinite."""


Hook = Callable[[int, decoder.Params], None]  # (step, parameters after it)


class _Layout(NamedTuple):
    """How a step's batch lies on the devices."""

    mesh: Any
    n_micro: int
    rows: np.ndarray  # that this process reads


def train(
    run: RunConfig,
    directory: str | Path,
    cache: Path,
    progress: bool = True,
    evaluate: Hook | None = None,
) -> None:
    """Trains a run to its last step, from wherever it stopped; returns at once if it is done.

    Of several processes each reads its own rows of a batch and all share the directory.

    Args:
        run: what to train.
        directory: of this run alone; gets `config.json`, `metrics.jsonl` and `checkpoints/`.
        cache: of tokenizers and packed text.
        progress: draw a progress bar.
        evaluate: called every `eval.every` steps.

    Raises:
        InputError: bad data or mesh, a directory of another config, or `Diverged`.
        Preempted: told to end (`preemption.watch`); the state is saved.
    """
    directory = Path(directory)
    run_directory.check_directory(run, directory)
    if parallel.agreed(run_directory.is_trained(run, directory)):
        return
    layout = _layout(run)
    packed = prepare(run.data, run.model.seq_len, cache)
    if packed.info.vocab_size > run.model.vocab_size:
        raise InputError(
            f"the tokenizer has {packed.info.vocab_size} entries: raise model.vocab_size to it"
        )
    writes = parallel.is_primary()
    with preemption.watch(), contextlib.ExitStack() as stack:

        def claim() -> None:
            taken = "another process is training it"
            stack.enter_context(locks.held(directory / locks.FILE, taken, locks.PATIENCE_S))
            run_directory.claim_directory(run, directory)

        parallel.on_primary(claim)
        stack.enter_context(parallel.use_mesh(layout.mesh))
        kept = run_directory.scored_steps(run)
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpoints(directory / "checkpoints", kept))
        )
        state = _begin(run, checkpoints, layout.mesh, packed)
        log = MetricsLog(directory, int(state.step)) if writes else None
        if log is not None:
            stack.callback(log.close)
        _train(run, state, log, packed, checkpoints, layout, progress and writes, evaluate)


def _layout(run: RunConfig) -> _Layout:
    mesh = parallel.make_mesh(run.mesh)
    parallel.check_fit(run.model, mesh)
    n_micro = parallel.micro_batches(run.batch_seqs, run.mesh, mesh)
    return _Layout(mesh, n_micro, parallel.own_rows(n_micro, run.batch_seqs, mesh))


def _train(
    run: RunConfig,
    state: TrainState,
    log: MetricsLog | None,
    packed: Packed,
    checkpoints: Checkpoints,
    layout: _Layout,
    progress: bool,
    evaluate: Hook | None,
) -> None:
    start = int(state.step)
    step_function = make_step(run.model, constants_of(run.optim), layout.mesh)
    schedule = schedule_of(run.optim, run.n_steps)
    saves = set(run_directory.checkpoint_steps(run))
    pending: list[dict[str, jax.Array]] = []
    if evaluate is not None and start and run.eval.every and start % run.eval.every == 0:
        evaluate(start, state.params)  # told to end, or killed, before it was
    clock = _Clock(run, log)
    batches = packed.batches(run.batch_seqs, run.data.seed, layout.rows.tolist())
    with (
        contextlib.closing(read_ahead(batches, start, run.data.workers)) as stream,
        tqdm(total=run.n_steps, initial=start, desc=run.name, unit="step",
             disable=not progress, leave=False) as bar,
    ):  # fmt: skip
        for step, rows in zip(range(start + 1, run.n_steps + 1), stream, strict=False):
            batch = parallel.put_batch(
                rows, layout.rows, layout.n_micro, run.batch_seqs, layout.mesh
            )
            state, metrics = step_function(state, batch, schedule)
            pending.append(metrics)
            due = evaluate is not None and run.eval.every > 0 and step % run.eval.every == 0
            told = preemption.noticed()
            logged = step % LOG_EVERY == 0 or step in saves or due or step == run.n_steps
            if logged or told:
                row = _collect(pending, step, checkpoints)
                seen = step * run.batch_tokens
                row |= {"n_tokens": seen, "epoch": seen / packed.info.n_tokens["train"]}
                row |= clock.lap(len(pending))
                if log is not None and logged:  # the same rows as without a notice
                    log.write(row)
                bar.update(len(pending))
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                pending.clear()
            if step in saves or told:
                checkpoints.save(step, state, _meta(run, packed, step))
            if told and step < run.n_steps:
                raise preemption.Preempted
            if due and evaluate is not None:
                with clock.paused(), _saved_if_told(run, packed, step, state, checkpoints):
                    evaluate(step, state.params)


@contextlib.contextmanager
def _saved_if_told(
    run: RunConfig, packed: Packed, step: int, state: TrainState, checkpoints: Checkpoints
) -> Iterator[None]:
    """Saves the state when an evaluation is told to end."""
    try:
        yield
    except preemption.Preempted:
        checkpoints.save(step, state, _meta(run, packed, step))
        raise


def _begin(run: RunConfig, checkpoints: Checkpoints, mesh: Any, packed: Packed) -> TrainState:
    """The newest good checkpoint's state, or a fresh one."""
    restored = checkpoints.restore_newest(abstract_state(run, mesh))
    if restored is None:
        return init_state(run, mesh)
    state, meta = restored
    expected = _meta(run, packed, int(state.step))
    if meta != expected:
        key, there, here = first_difference(meta, expected)
        raise InputError(
            f"{checkpoints.directory}: the checkpoint was made with {key} {there!r}, now it is "
            f"{here!r}: choose another --out"
        )
    return state


def _meta(run: RunConfig, packed: Packed, step: int) -> dict[str, Any]:
    """What a checkpoint tells: the run, and its place in the text, the same on any mesh."""
    return {
        "config": config_text.identity(run),
        "dtype": decoder.compute_dtype(run.model) or "float32",
        "data": {"next_batch": step, "fingerprint": packed.info.fingerprint},
    }


def _collect(
    pending: list[dict[str, jax.Array]], step: int, checkpoints: Checkpoints
) -> dict[str, Any]:
    """Fetches the metrics of the last steps; the newest is logged.

    Raises:
        Diverged: a loss or gradient is not finite.
    """
    fetched = jax.device_get(pending)
    for back, metrics in enumerate(fetched, start=1 - len(fetched)):
        for name, value in metrics.items():
            if not np.isfinite(value):
                good = checkpoints.steps()
                kept = f"step {good[-1]} in {checkpoints.directory}" if good else "none"
                raise Diverged(
                    f"the {name} is {value} at step {step + back}; last good checkpoint: {kept}; "
                    "lower optim.lr_peak, with another --out"
                )
    return {"step": step} | {name: float(value) for name, value in fetched[-1].items()}


class _Clock:
    """Wall and CPU time between log lines, and what of the hardware's peak was used."""

    def __init__(self, run: RunConfig, log: MetricsLog | None) -> None:
        self.cpu_offset = (log.cpu_s if log else 0.0) - time.process_time()
        self.wall = time.perf_counter()
        self.step_tokens = run.batch_tokens
        self.flops_per_token = counts.flops_per_token(run.model, "matmul")
        self.peak = hardware.peak_flops(jax.devices()[0])

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done meanwhile out of the next lap, wall and CPU time."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu_offset -= time.process_time() - cpu

    def lap(self, n_steps: int) -> dict[str, float]:
        now = time.perf_counter()
        rate = n_steps * self.step_tokens / (now - self.wall)
        self.wall = now
        cpu_s = self.cpu_offset + time.process_time()
        lap = {"tokens_per_s": round(rate, 1), "cpu_s": round(cpu_s, 2)}
        if self.peak:
            lap["mfu"] = round(rate * self.flops_per_token / self.peak / jax.device_count(), 4)
        return lap
