"""The sides of `experiments.benchmarks.train_step`, each of which runs in a separate process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ladder_jax import hf, parallel
from ladder_jax.config import MeshConfig, ModelConfig, OptimConfig, RunConfig
from ladder_jax.models import counts
from ladder_jax.training import initialize, schedule, step

MODEL = ModelConfig(
    d_model=128, n_heads=4, n_layers=4, d_ff=512, vocab_size=4096, seq_len=256, dtype="float32"
)
N_SEQS = 8
N_COMPARED = 20  # steps whose losses are compared
OPTIM = OptimConfig(warmup_steps=5, z_loss=0.0)
SCHEDULE = schedule.schedule_of(OPTIM, N_COMPARED)
_PEAK = 1024  # rows and columns of the matrices
_PRODUCTS = 5  # of which the fastest counts


class Side(NamedTuple):
    """A training that has been started.

    Attributes:
        facts: tokens and FLOPs of a step, and CPU seconds of the start.
        losses: losses of the steps that are compared.
        step: does one more step.
        product: multiplies two matrices.
    """

    facts: dict[str, Any]
    losses: list[float]
    step: Callable[[], Any]
    product: Callable[[], Any]

    def round(self, n_steps: int) -> tuple[list[float], float]:
        """CPU seconds of each step, and the peak rate of the product in GFLOP/s."""
        seconds = [_seconds(self.step) for _ in range(n_steps)]
        product = min(_seconds(self.product) for _ in range(_PRODUCTS))
        return seconds, 2 * _PEAK**3 / product / 1e9


def start(name: str, home: str) -> Side:
    """Starts a side (`ours float32`, ...): compiles it and does the compared steps."""
    engine, kind = name.split()
    begun = time.process_time()
    train, product = {"ours": _ours, "torch": _torch}[engine](kind, Path(home) / name)
    losses = [train(batch, i) for i, batch in enumerate(_batches())]
    product()
    facts = {
        "tokens": N_SEQS * MODEL.seq_len,
        "flops_per_token": counts.flops_per_token(MODEL, "matmul"),
        "start_cpu_s": time.process_time() - begun,
    }
    batch = _batches()[0]
    return Side(facts, losses, lambda: train(batch, N_COMPARED - 1), product)


def _batches() -> np.ndarray:
    """Token ids of shape (steps, B, L + 1); higher ids are rarer, so that losses fall."""
    shape = (N_COMPARED, N_SEQS, MODEL.seq_len + 1)
    return (np.random.default_rng(0).zipf(1.3, shape) % MODEL.vocab_size).astype(np.int32)


def _run() -> RunConfig:
    return RunConfig(model=MODEL, optim=OPTIM, n_steps=N_COMPARED, batch_seqs=N_SEQS)


_OURS = {
    "float32": MODEL,
    "custom": replace(MODEL, linear="custom"),
    "bfloat16": replace(MODEL, dtype="bfloat16"),
}


def _ours(kind: str, home: Path) -> tuple[Callable, Callable]:
    mesh = parallel.make_mesh(MeshConfig())
    model = _OURS[kind]
    function = step.make_step(model, initialize.constants_of(OPTIM), mesh)
    with parallel.use_mesh(mesh):
        states = [initialize.init_state(_run(), mesh)]

    def train(batch: np.ndarray, i: int) -> float:
        with parallel.use_mesh(mesh):
            states[0], metrics = function(states[0], {"tokens": batch[None]}, SCHEDULE)
        return float(metrics["loss"])

    matrix = jnp.asarray(_matrix())
    product = jax.jit(jnp.matmul)
    return train, lambda: product(matrix, matrix).block_until_ready()


def _torch(dtype: str, home: Path) -> tuple[Callable, Callable]:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    mesh = parallel.make_mesh(MeshConfig())
    hf.write(home, MODEL, jax.device_get(initialize.init_state(_run(), mesh).params))
    model = transformers.Olmo2ForCausalLM.from_pretrained(
        home, dtype=torch.float32, attn_implementation="sdpa"
    ).train()
    tables = [model.model.embed_tokens.weight]
    others = [p for p in model.parameters() if p is not tables[0]]
    optimiser = torch.optim.AdamW(
        [{"params": tables, "weight_decay": 0.0}, {"params": others}],
        betas=(OPTIM.beta1, OPTIM.beta2),
        eps=OPTIM.eps,
        weight_decay=OPTIM.weight_decay,
        fused=True,
    )
    rates = [float(schedule.learning_rate(SCHEDULE, jnp.float32(i))) for i in range(N_COMPARED)]

    def train(batch: np.ndarray, i: int) -> float:
        tokens = torch.from_numpy(batch.astype(np.int64))
        for group in optimiser.param_groups:
            group["lr"] = rates[i]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), tokens[:, 1:].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        return float(loss.detach())

    matrix = torch.from_numpy(_matrix())
    return train, lambda: matrix @ matrix


def _matrix() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((_PEAK, _PEAK), np.float32)


def _seconds(function: Callable) -> float:
    begun = time.process_time()
    function()
    return time.process_time() - begun
