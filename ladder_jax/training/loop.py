"""Training: checkpoints that resume to the bit, a log without host syncs, an end on notice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import RunConfig
from ladder_jax.config_text import Difference, difference, from_dict, identity
from ladder_jax.data.pipeline import Packed, prepare, read_ahead
from ladder_jax.models import counts
from ladder_jax.models.protocol import Batch, Params
from ladder_jax.models.registry import architecture
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


Hook = Callable[[int, Params], None]  # (step, parameters after it)


class _Layout(NamedTuple):
    """The devices, and how a step's batch is divided among them."""

    mesh: Any
    n_micro: int
    rows: np.ndarray  # that this process reads


class _Session(NamedTuple):
    """The constants of one training process; `log` is None if another process writes it."""

    run: RunConfig
    layout: _Layout
    packed: Packed
    checkpoints: Checkpoints
    log: MetricsLog | None

    def save(self, step: int, state: TrainState) -> None:
        self.checkpoints.save(step, state, _meta(self.run, self.packed, step))


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
        Preempted: a stop was requested (`preemption.watch`); the state is saved.
    """
    directory = Path(directory)
    run_directory.check_directory(run, directory)
    if parallel.agreed(run_directory.is_trained(run, directory)):
        return
    layout = _layout(run)
    packed = prepare(run.data, run.model.seq_len, cache)
    if packed.info.vocab_size > run.model.vocab_size:
        raise InputError(
            f"the tokenizer has {packed.info.vocab_size} entries: raise `model.vocab_size` to it"
        )
    with preemption.watch(), contextlib.ExitStack() as stack:
        _claim(run, directory, stack)
        stack.enter_context(parallel.use_mesh(layout.mesh))
        kept = run_directory.scored_steps(run)
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpoints(directory / "checkpoints", kept))
        )
        state = _begin(run, checkpoints, layout.mesh, packed)
        log = MetricsLog(directory, int(state.step)) if parallel.is_primary() else None
        if log is not None:
            stack.callback(log.close)
        session = _Session(run, layout, packed, checkpoints, log)
        _run_steps(session, state, progress and log is not None, evaluate)


def _claim(run: RunConfig, directory: Path, stack: contextlib.ExitStack) -> None:
    """Locks the directory until `stack` ends, and writes the run's config there."""

    def claim() -> None:
        taken = "another process is training it"
        stack.enter_context(locks.held(directory / locks.FILE, taken, locks.PATIENCE_S))
        run_directory.claim_directory(run, directory)

    parallel.on_primary(claim)


def _layout(run: RunConfig) -> _Layout:
    mesh = parallel.make_mesh(run.mesh)
    parallel.check_fit(architecture(run.model).divisibility(run.model), mesh)
    n_micro = parallel.micro_batches(run.batch_seqs, run.mesh, mesh)
    return _Layout(mesh, n_micro, parallel.own_rows(n_micro, run.batch_seqs, mesh))


def _run_steps(session: _Session, state: TrainState, progress: bool, evaluate: Hook | None) -> None:
    """All steps after the state's: trained, logged, saved and evaluated."""
    run, start = session.run, int(state.step)
    step_function = make_step(run.model, constants_of(run.optim), session.layout.mesh)
    schedule = schedule_of(run.optim, run.n_steps)
    saves = set(run_directory.checkpoint_steps(run))
    if evaluate is not None and start and run.eval.every and start % run.eval.every == 0:
        evaluate(start, state.params)  # it was stopped, or killed, before its evaluation
    with (
        contextlib.closing(_placed_batches(session, start)) as batches,
        tqdm(total=run.n_steps, initial=start, desc=run.name, unit="step",
             disable=not progress, leave=False) as bar,
    ):  # fmt: skip
        report = _Report(session, bar)
        for step, batch in zip(range(start + 1, run.n_steps + 1), batches, strict=False):
            state, metrics = step_function(state, batch, schedule)
            report.add(metrics)
            due = evaluate is not None and run.eval.every > 0 and step % run.eval.every == 0
            stop_requested = preemption.noticed()
            logged = step % LOG_EVERY == 0 or step in saves or due or step == run.n_steps
            if logged or stop_requested:
                report.flush(step, logged)
            if step in saves or stop_requested:
                session.save(step, state)
            if stop_requested and step < run.n_steps:
                raise preemption.Preempted
            if due and evaluate is not None:
                with report.clock.paused(), _saved_on_stop(session, step, state):
                    evaluate(step, state.params)


def _placed_batches(session: _Session, start: int) -> Generator[Batch, None, None]:
    """The batches of step `start` + 1 and those after it, on the devices."""
    run, layout = session.run, session.layout
    order = run.data.seed + run.seed  # every seed of a ladder reads the text in another order
    batches = session.packed.batches(run.batch_seqs, order, layout.rows.tolist())
    with contextlib.closing(read_ahead(batches, start, run.data.workers)) as stream:
        for rows in stream:
            yield parallel.put_batch(rows, layout.rows, layout.n_micro, run.batch_seqs, layout.mesh)


@contextlib.contextmanager
def _saved_on_stop(session: _Session, step: int, state: TrainState) -> Iterator[None]:
    """Saves the state when a stop is requested during an evaluation."""
    try:
        yield
    except preemption.Preempted:
        session.save(step, state)
        raise


def _begin(run: RunConfig, checkpoints: Checkpoints, mesh: Any, packed: Packed) -> TrainState:
    """The newest good checkpoint's state, or a fresh one."""
    restored = checkpoints.restore_newest(abstract_state(run, mesh))
    if restored is None:
        return init_state(run, mesh)
    state, meta = restored
    found = _difference(meta, _meta(run, packed, int(state.step)), str(checkpoints.directory))
    if found is not None:
        raise InputError(
            f"{checkpoints.directory}: the checkpoint was made with {found.key} {found.there!r}, "
            f"now it is {found.here!r}: choose another `out`"
        )
    return state


def _difference(there: dict[str, Any], here: dict[str, Any], source: str) -> Difference | None:
    """The first difference between what two checkpoints keep of their runs, or None."""
    runs = [from_dict(RunConfig, meta["config"], source) for meta in (there, here)]
    found = difference(*runs)  # of whole configs: an identity leaves out what was a default
    if found is not None:
        return found._replace(key=f"config.{found.key}")
    flat = [{"dtype": meta["dtype"]} | meta["data"] for meta in (there, here)]
    keys = (key for key in flat[1] if flat[0].get(key) != flat[1][key])
    return next((Difference(key, flat[0].get(key), flat[1][key]) for key in keys), None)


def _meta(run: RunConfig, packed: Packed, step: int) -> dict[str, Any]:
    """The run and its place in the text, as a checkpoint keeps them; alike on any mesh."""
    return {
        "config": identity(run),
        "dtype": architecture(run.model).compute_dtype(run.model) or "float32",
        "data": {"next_batch": step, "fingerprint": packed.info.fingerprint},
    }


class _Report:
    """Keeps the metrics of steps on the devices, and fetches and logs them a few at a time."""

    def __init__(self, session: _Session, bar: tqdm) -> None:
        self.clock = _Clock(session.run, session.log)
        self._session, self._bar = session, bar
        self._pending: list[dict[str, jax.Array]] = []

    def add(self, metrics: dict[str, jax.Array]) -> None:
        self._pending.append(metrics)

    def flush(self, step: int, logged: bool) -> None:
        """Fetches what is pending, up to `step`; writes a line of the log if `logged`.

        Raises:
            Diverged: a loss or gradient is not finite.
        """
        run, n_steps = self._session.run, len(self._pending)
        row = _collect(self._pending, step, self._session.checkpoints)
        seen = step * run.batch_tokens
        row |= {"n_tokens": seen, "epoch": seen / self._session.packed.info.n_tokens["train"]}
        row |= self.clock.lap(n_steps)
        if self._session.log is not None and logged:  # a stop adds no line
            self._session.log.write(row)
        self._bar.update(n_steps)
        self._bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
        self._pending.clear()


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
                    "lower `optim.lr_peak`, with another `out`"
                )
    return {"step": step} | {name: float(value) for name, value in fetched[-1].items()}


class _Clock:
    """Wall and CPU time between log lines, and the share of the hardware's peak that was used."""

    def __init__(self, run: RunConfig, log: MetricsLog | None) -> None:
        self.cpu_offset = (log.cpu_s if log else 0.0) - time.process_time()
        self.wall = time.perf_counter()
        self.step_tokens = run.batch_tokens
        self.flops_per_token = counts.flops_per_token(run.model, "matmul")
        self.peak = hardware.peak_flops(jax.devices()[0])

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done in the block out of the next lap, wall and CPU time."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu_offset -= time.process_time() - cpu

    def lap(self, n_steps: int) -> dict[str, float]:
        """Tokens per second, CPU seconds so far and `mfu`, of the steps since the last lap."""
        now = time.perf_counter()
        rate = n_steps * self.step_tokens / (now - self.wall)
        self.wall = now
        cpu_s = self.cpu_offset + time.process_time()
        lap = {"tokens_per_s": round(rate, 1), "cpu_s": round(cpu_s, 2)}
        if self.peak:
            lap["mfu"] = round(rate * self.flops_per_token / self.peak / jax.device_count(), 4)
        return lap
