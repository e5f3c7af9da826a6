"""Training: one jitted step, checkpoints that resume to the bit, a log without host syncs."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import draccus
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from fitting.table import InputError
from ladder_jax import config as config_module
from ladder_jax import optim, sharding, tracking
from ladder_jax.checkpoint import Checkpoints
from ladder_jax.config import OptimConfig, RunConfig
from ladder_jax.data.pipeline import PADDING, Packed, prepare
from ladder_jax.eval import heldout
from ladder_jax.models import decoder
from ladder_jax.tracking import MetricsLog, checkpoint_steps

LOG_EVERY = 10


class TrainState(NamedTuple):
    """Everything a step changes."""

    step: jax.Array
    params: decoder.Params
    moments: optax.OptState


class Diverged(InputError):
    """The loss is NaN or infinite."""


Hook = Callable[[int, decoder.Params], None]  # (step, parameters after it)


def train(
    run: RunConfig,
    directory: str | Path,
    cache: Path,
    progress: bool = True,
    evaluate: Hook | None = None,
) -> None:
    """Trains a run to its last step, from wherever it stopped; returns at once if it is done.

    Args:
        run: what to train.
        directory: of this run alone; gets `config.json`, `metrics.jsonl` and `checkpoints/`.
        cache: of tokenizers and packed text.
        progress: draw a progress bar.
        evaluate: called every `eval.every` steps.

    Raises:
        InputError: bad data or mesh, a directory of another config, or `Diverged`.
    """
    directory = Path(directory)
    tracking.check_directory(run, directory)
    if tracking.is_trained(run, directory):
        return
    mesh = sharding.make_mesh(run.mesh)
    sharding.check_fit(run.model, run.batch_seqs, mesh)
    packed = prepare(run.data, run.model.seq_len, cache)
    if packed.info.vocab_size > run.model.vocab_size:
        raise InputError(
            f"the tokenizer has {packed.info.vocab_size} entries: raise model.vocab_size to it"
        )
    with tracking.lock(directory), sharding.use_mesh(mesh):
        tracking.claim_directory(run, directory)
        checkpoints = Checkpoints(directory / "checkpoints")
        log = None
        try:
            state = _begin(run, checkpoints, mesh, packed)
            log = MetricsLog(directory, int(state.step))
            _train(run, state, log, packed, checkpoints, mesh, progress, evaluate)
        finally:
            checkpoints.close()
            if log is not None:
                log.close()


def _train(
    run: RunConfig,
    state: TrainState,
    log: MetricsLog,
    packed: Packed,
    checkpoints: Checkpoints,
    mesh: Any,
    progress: bool,
    evaluate: Hook | None,
) -> None:
    start = int(state.step)
    step_function = make_step(run.model, _constants(run.optim), mesh)
    schedule = optim.schedule_of(run.optim, run.n_steps)
    batches = packed.batches(run.batch_seqs, run.data.seed)
    rows = sharding.batch_sharding(mesh)
    saves = set(checkpoint_steps(run))
    pending: list[dict[str, jax.Array]] = []
    clock = _Clock(log.cpu_s)
    bar = tqdm(total=run.n_steps, initial=start, desc=run.name, unit="step",
               disable=not progress, leave=False)  # fmt: skip
    for step in range(start + 1, run.n_steps + 1):
        batch = jax.device_put(batches[step - 1], rows)
        state, metrics = step_function(state, batch, schedule)
        pending.append(metrics)
        due = evaluate is not None and run.eval.every > 0 and step % run.eval.every == 0
        if step % LOG_EVERY == 0 or step in saves or due or step == run.n_steps:
            try:
                row = _collect(pending, step, checkpoints)
            except Diverged:
                bar.close()
                raise
            n_tokens = step * run.batch_tokens
            seen = {"n_tokens": n_tokens, "epoch": n_tokens / packed.info.n_tokens["train"]}
            log.write(row | seen | clock.lap(len(pending) * run.batch_tokens))
            bar.update(len(pending))
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            pending.clear()
        if step in saves:
            checkpoints.save(step, state, _meta(run, packed, step))
        if due and evaluate is not None:
            with clock.paused():
                evaluate(step, state.params)
    bar.close()


@functools.cache
def make_step(model: config_module.ModelConfig, constants: OptimConfig, mesh: Any) -> Callable:
    """The jitted training step: (state, batch of shape (B, L + 1), schedule) -> state, metrics.

    Compiled once for a model, a mesh and the optimiser's constants; learning rate and length are
    arguments.  Metrics are scalars: `loss` (nats per token, before the step), `lr`, `grad_norm`
    and, after it, `param_norm`.
    """
    transformation = optim.transformation(constants)

    def loss_function(params: decoder.Params, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs, targets = jnp.maximum(batch[:, :-1], 0), batch[:, 1:]
        nats, normaliser = heldout.token_nats(decoder.bind(model, params)(inputs), targets)
        counted = targets != PADDING
        n = jnp.maximum(jnp.sum(counted), 1)
        loss = jnp.sum(jnp.where(counted, nats, 0.0)) / n
        z_loss = jnp.sum(jnp.where(counted, normaliser**2, 0.0)) / n
        return loss + constants.z_loss * z_loss, loss

    def step(
        state: TrainState, batch: jax.Array, schedule: optim.Schedule
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        (_, loss), grads = jax.value_and_grad(loss_function, has_aux=True)(state.params, batch)
        lr = optim.learning_rate(schedule, state.step.astype(jnp.float32))
        direction, moments = transformation.update(grads, state.moments, state.params)
        params = jax.tree.map(lambda p, d: p - lr * d, state.params, direction)
        metrics = {
            "loss": loss,
            "lr": lr,
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
        }
        return TrainState(state.step + 1, params, moments), metrics

    shards = state_sharding(model, constants, mesh)
    scalar = sharding.replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(shards, sharding.batch_sharding(mesh), scalar),
        out_shardings=(shards, scalar),
        donate_argnums=0,
    )


def init_state(run: RunConfig, mesh: Any) -> TrainState:
    """A fresh state, laid out on the mesh from the start."""
    shards = state_sharding(run.model, _constants(run.optim), mesh)
    make = functools.partial(_fresh_state, run.model, _constants(run.optim))
    return jax.jit(make, out_shardings=shards)(jax.random.key(run.seed))


def _fresh_state(
    model: config_module.ModelConfig, constants: OptimConfig, key: jax.Array
) -> TrainState:
    params = decoder.init_params(model, key)
    moments = optim.transformation(constants).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, moments)


def abstract_state(run: RunConfig, mesh: Any) -> TrainState:
    """Shapes, dtypes and shardings of a run's state."""
    constants = _constants(run.optim)
    shapes = jax.eval_shape(
        functools.partial(_fresh_state, run.model, constants), jax.random.key(0)
    )
    shards = state_sharding(run.model, constants, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shards
    )


def state_sharding(model: config_module.ModelConfig, constants: OptimConfig, mesh: Any) -> Any:
    """A `TrainState` of shardings: moments lie where their parameters lie."""
    params = sharding.parameter_shardings(mesh, decoder.logical_axes(model))
    transformation = optim.transformation(constants)
    shapes = jax.eval_shape(transformation.init, decoder.abstract_params(model))
    moments = optax.tree.map_params(
        transformation,
        lambda _, shard: shard,
        shapes,
        params,
        transform_non_params=lambda _: sharding.replicated(mesh),
    )
    step: Any = sharding.replicated(mesh)
    return TrainState(step, params, moments)


def _begin(run: RunConfig, checkpoints: Checkpoints, mesh: Any, packed: Packed) -> TrainState:
    """The newest good checkpoint's state, or a fresh one."""
    restored = checkpoints.restore_newest(abstract_state(run, mesh))
    if restored is None:
        return init_state(run, mesh)
    state, meta = restored
    expected = _meta(run, packed, int(state.step))
    if meta != expected:
        key, there, here = tracking.first_difference(meta, expected)
        raise InputError(
            f"{checkpoints.directory}: the checkpoint was made with {key} {there!r}, now it is "
            f"{here!r}: choose another --out"
        )
    return state


def _meta(run: RunConfig, packed: Packed, step: int) -> dict[str, Any]:
    return {
        "config": draccus.encode(run),
        "data": {"next_batch": step, "fingerprint": packed.info.fingerprint},
    }


def _constants(config: OptimConfig) -> OptimConfig:
    """The optimiser without what the step takes as arguments, so that runs share a compile."""
    plain = OptimConfig()
    return replace(
        config,
        lr_peak=plain.lr_peak,
        lr_final_ratio=plain.lr_final_ratio,
        warmup_steps=plain.warmup_steps,
    )


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
    """Wall and CPU time between log lines."""

    def __init__(self, cpu_s: float) -> None:
        self.cpu_offset = cpu_s - time.process_time()
        self.wall = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done meanwhile out of the next lap, wall and CPU time."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu_offset -= time.process_time() - cpu

    def lap(self, n_tokens: int) -> dict[str, float]:
        now = time.perf_counter()
        rate = n_tokens / (now - self.wall)
        self.wall = now
        cpu_s = self.cpu_offset + time.process_time()
        return {"tokens_per_s": round(rate, 1), "cpu_s": round(cpu_s, 2)}
