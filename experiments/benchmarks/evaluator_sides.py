"""The sides of `experiments.benchmarks.evaluator`, each of which scores the same token ids.

A side is a function that takes a `Workload`, and returns the log-likelihood of every request and a
dict of measurements.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.benchmarks import common
from ladder_jax import hf
from ladder_jax.config import ModelConfig
from ladder_jax.data.tokenizer import find_tokenizer
from ladder_jax.eval import loglik, packing, requests
from ladder_jax.eval.requests import Bundle, Ids
from ladder_jax.models import decoder
from ladder_jax.tasks import olmes

WINDOW = 4096
BATCH_SIZES = (1, 8, 32)  # of which the harness uses the fastest
_SAMPLE = 32  # requests by which the fastest is found
_ROWS = 8  # in a batch of the plain scorers
_HEAD_SCALE = 6.0  # so that log-likelihoods vary
Measured = tuple[np.ndarray, dict[str, Any]]


class Workload(NamedTuple):
    """The task of a side.

    Attributes:
        model: directory of a Hugging Face model.
        requests: file that `prepare` wrote.
        documents: number of documents to score, the first ones; None means all.
        repeats: number of warm calls of our side.
        batch_size: batch size of the harness.
    """

    model: str
    requests: str
    documents: int | None
    repeats: int
    batch_size: int = 1


def prepare(directory: str, tasks: Sequence[str], documents: int, vocabulary: int) -> None:
    """Writes into a directory the model, and the requests of task i as `{i}.npz`."""
    model = ModelConfig(
        d_model=384, n_heads=6, n_layers=8, d_ff=1536, vocab_size=vocabulary, seq_len=WINDOW
    )
    params = decoder.init_params(model, jax.random.key(0))
    hf.write(f"{directory}/model", model, params | {"head": _HEAD_SCALE * params["head"]})
    tokenizer = find_tokenizer("dolma2")
    for i, label in enumerate(tqdm(tasks, "tokenising", leave=False, disable=None)):
        task = olmes.load(label, documents)
        made = requests.of_tasks([task], tokenizer, WINDOW, unconditional=False)
        parts = [[getattr(b, f) for b in made.bundles] for f in ("contexts", "continuations")]
        pairs = list(zip(*map(itertools.chain.from_iterable, parts), strict=True))
        np.savez(
            f"{directory}/{i}.npz",
            ids=np.concatenate([ids for pair in pairs for ids in pair]) % vocabulary,
            lengths=[list(map(len, pair)) for pair in pairs],
            bundles=[len(b.numbers) for b in made.bundles],
            request=made.conditional,
            document=[k for k, d in enumerate(task.documents) for _ in d.choices],
        )


def read(path: str, documents: int | None = None) -> list[Bundle]:
    """The requests of a file's first documents."""
    with np.load(path, allow_pickle=False) as file:
        ids, lengths, sizes = (file[name] for name in ("ids", "lengths", "bundles"))
        chosen = file["request"][file["document"] < (documents or np.inf)]
    found = iter(np.split(ids.astype(np.int32), np.cumsum(lengths)[:-1]))
    bundles, number = [], 0
    for size in sizes:
        pairs = [(next(found), next(found)) for _ in range(size)]
        numbers = tuple(range(number, number + size))
        number += size
        if number <= chosen.max() + 1:
            bundles.append(Bundle(*zip(*pairs, strict=True), numbers=numbers))
    return bundles


def ours(job: Workload) -> Measured:
    """`packing.plan` and `loglik.score`, both timed: one cold call, then warm calls."""
    model, params = _decoder(job.model)
    bundles = read(job.requests, job.documents)

    def score() -> tuple[packing.Plan, np.ndarray]:
        plan = packing.plan(bundles)
        return plan, loglik.score(model, params, plan).loglik

    _, cold = common.timed(score)
    (plan, found), seconds = common.timed(score)
    warm = [seconds, *(common.timed(score)[1] for _ in range(job.repeats - 1))]
    middle = float(np.median(warm))
    return found, {
        "cpu_s": middle,
        "warm_cpu_s": warm,
        "cold_cpu_s": cold,
        "compile_cpu_s": cold - middle,
        "n_naive": plan.n_naive,
        "n_tokens": plan.n_tokens,
        "ceiling": plan.n_naive / plan.n_tokens,
    }


def plain(job: Workload) -> Measured:
    """One request per row, logits at every token."""
    return _plain(job, gathered=False)


def plain_gathered(job: Workload) -> Measured:
    """One request per row, logits only where a continuation is predicted."""
    return _plain(job, gathered=True)


def _plain(job: Workload, gathered: bool) -> Measured:
    model, params = _decoder(job.model)
    pairs = _pairs(read(job.requests, job.documents))
    nats = _nats(model, gathered)

    def score(once: bool) -> np.ndarray:
        found, seen = np.full(len(pairs), np.nan), set()
        n_batches = -(-len(pairs) // _ROWS)
        for numbers, rows in tqdm(_batches(pairs), total=n_batches, leave=False, disable=None):
            shape = tuple(array.shape for array in rows)
            if once and shape in seen:
                continue
            seen.add(shape)
            logs = np.asarray(nats(params, *rows))
            for row, number in zip(logs, numbers, strict=False):
                found[number] = row[: len(pairs[number][1])].sum(dtype=float)
        return found

    _, compiling = common.timed(score, True)  # a batch of every shape
    found, seconds = common.timed(score, False)
    return found, {"cpu_s": seconds, "compile_cpu_s": compiling}


def _batches(pairs: Sequence[tuple[Ids, Ids]]) -> Iterator[tuple[np.ndarray, tuple[Any, ...]]]:
    """Yields request numbers and rows of token ids, source positions and targets; longest first."""
    lengths = np.array([len(context) + len(continuation) - 1 for context, continuation in pairs])
    order = np.argsort(-lengths, kind="stable")
    for numbers in np.split(order, range(_ROWS, len(order), _ROWS)):
        length = _rounded(lengths[numbers].max(), 64)
        width = _rounded(max(len(pairs[i][1]) for i in numbers), 16)
        token = np.zeros((_ROWS, length), np.int32)
        source, target = (np.zeros((_ROWS, width), np.int32) for _ in range(2))
        for row, i in enumerate(numbers):
            context, continuation = pairs[i]
            n, end = len(continuation), int(lengths[i])
            token[row, :end] = np.concatenate([context, continuation[:-1]])
            source[row, :n] = np.arange(end - n, end)
            target[row, :n] = continuation
        yield numbers, (token, source, target)


def _rounded(n: int, multiple: int) -> int:
    return -(-int(n) // multiple) * multiple


def _nats(model: ModelConfig, gathered: bool) -> Callable[..., jax.Array]:
    """Returns a function (params, token, source, target) -> log-probabilities of the targets."""

    @jax.jit
    def nats(params: Any, token: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
        bound, at = decoder.bind(model, params), source[..., None]
        if gathered:
            logits = bound.logits(jnp.take_along_axis(bound.hidden(token), at, axis=1))
            logs = jax.nn.log_softmax(logits, axis=-1)
        else:
            logs = jnp.take_along_axis(jax.nn.log_softmax(bound(token), axis=-1), at, axis=1)
        return jnp.take_along_axis(logs, target[..., None], axis=2)[..., 0]

    return nats


def harness(job: Workload) -> Measured:
    """`_loglikelihood_tokens` of lm-evaluation-harness, on torch."""
    score = _harness(job)
    pairs = _pairs(read(job.requests, job.documents))
    score(_spread(pairs), job.batch_size)
    found, seconds = common.timed(score, pairs, job.batch_size)
    return found, {"cpu_s": seconds, "batch_size": job.batch_size}


def batch_size(job: Workload) -> Measured:
    """The batch size with which the harness is fastest on a few requests."""
    score, some = _harness(job), _spread(_pairs(read(job.requests, job.documents)))
    score(some[:2], 1)
    seconds = {size: common.timed(score, some, size)[1] for size in BATCH_SIZES}
    best = min(seconds, key=lambda size: seconds[size])
    return np.zeros(0), {"batch_size": best, "tried_cpu_s": seconds, "sample": len(some)}


def _spread(pairs: list[tuple[Ids, Ids]]) -> list[tuple[Ids, Ids]]:
    """At most `_SAMPLE` requests, at even distances."""
    return pairs[:: max(1, len(pairs) // _SAMPLE)][:_SAMPLE]


def _harness(job: Workload) -> Callable[[Sequence[tuple[Ids, Ids]], int], np.ndarray]:
    """Returns a function (requests, batch size) -> log-likelihoods."""
    import torch  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    end = "<|endoftext|>"  # HFLM requires a tokenizer, although it gets token ids
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({end: 0})), eos_token=end
    )
    lm = HFLM(job.model, tokenizer=words, device="cpu", dtype="float32", max_length=WINDOW)

    def score(pairs: Sequence[tuple[Ids, Ids]], size: int) -> np.ndarray:
        lm.batch_size_per_gpu = size
        ids = [((str(i), ""), *(x.tolist() for x in pair)) for i, pair in enumerate(pairs)]
        quiet = not sys.stderr.isatty()
        return np.array([x for x, _ in lm._loglikelihood_tokens(ids, disable_tqdm=quiet)])

    return score


def _decoder(directory: str) -> tuple[ModelConfig, Any]:
    model = hf.read_config(directory)
    return model, jax.device_put(hf.read_params(directory, model))


def _pairs(bundles: Sequence[Bundle]) -> list[tuple[Ids, Ids]]:
    return [p for b in bundles for p in zip(b.contexts, b.continuations, strict=True)]


SIDES = {f.__name__: f for f in (ours, plain, plain_gathered, harness, batch_size)}


def run(side: str, job: tuple[Any, ...], out: str) -> None:
    """Measures a side in this process; writes `{out}.npy` and `{out}.json`."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found, cells = SIDES[side](Workload(*job))
    np.save(f"{out}.npy", found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    Path(f"{out}.json").write_text(json.dumps(cells | {"peak_gb": peak}))
