"""Compares per-choice log-likelihoods of our packed scorer, a plain scorer and transformers.

Command:  python -m experiments.benchmarks.agreement --hf DIR
Hardware: one CPU core; needs `ladder download olmes` and the extra `bench`.
Expected: README.md of this folder.

The other scorers compute one request per row, in float32.  Printed for each task: the largest
|difference| / tokens, and in how many documents the choice of greatest log-likelihood differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from fitting.errors import InputError
from ladder_jax import hf
from ladder_jax.config import ModelConfig
from ladder_jax.data.tokenizer import find_tokenizer
from ladder_jax.eval import loglik, scoring
from ladder_jax.models import decoder
from ladder_jax.tasks import olmes

TASKS = (
    "hellaswag_val_rc_5shot", "arc_challenge_test_rc_5shot", "arc_easy_test_rc_5shot",
    "piqa_val_rc_5shot", "csqa_val_rc_5shot", "socialiqa_val_rc_5shot",
    "openbookqa_test_rc_5shot", "boolq_val_rc_5shot", "winogrande_val_rc_5shot",
    "arc_challenge_test_mc_5shot", "mmlu_abstract_algebra_test_rc_5shot",
    "mmlu_astronomy_test_rc_5shot",
)  # fmt: skip
Nats = Callable[[np.ndarray, int], np.ndarray]  # (tokens of shape (B, L), n) -> (B, n) log-probs


def plain(model: ModelConfig, params: decoder.Params) -> Nats:
    """Our decoder, one request per row, causal."""

    @jax.jit
    def hidden(params: decoder.Params, token: jax.Array) -> jax.Array:
        return decoder.bind(model, params).hidden(token)

    @jax.jit
    def nats(params: decoder.Params, hidden: jax.Array, target: jax.Array) -> jax.Array:
        logits = decoder.bind(model, params).logits(hidden)
        chosen = jnp.take_along_axis(logits, target[..., None], axis=2)[..., 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    def score(token: np.ndarray, n: int) -> np.ndarray:
        length = -(-token.shape[1] // 64) * 64  # causal: padding after the request does not matter
        padded = np.pad(token, ((0, 0), (0, length - token.shape[1])))
        at = np.arange(token.shape[1] - 1 - n, token.shape[1] - 1)
        targets = token[:, -n:]
        return np.asarray(nats(params, hidden(params, padded)[:, at], targets))

    return score


def transformers(directory: str, dtype: str) -> Nats:
    """Olmo2ForCausalLM on torch; in float64 it is the reference."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import Olmo2ForCausalLM  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    model = Olmo2ForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()

    def score(token: np.ndarray, n: int) -> np.ndarray:
        with torch.no_grad():
            ids = torch.from_numpy(token.astype(np.int64))
            hidden = model.model(ids[:, :-1]).last_hidden_state[:, -n:]
            logs = torch.log_softmax(model.lm_head(hidden), -1)
            return logs.gather(2, ids[:, -n:, None])[..., 0].numpy()

    return score


def _requests(prepared: scoring.PreparedTasks) -> Iterator[tuple[int, np.ndarray, int]]:
    """Yields (number of a request, all its tokens, number of tokens of its continuation)."""
    for bundle in prepared.requests.bundles:
        for context, continuation, number in zip(
            bundle.contexts, bundle.continuations, bundle.numbers, strict=True
        ):
            yield number, np.concatenate([context, continuation]), len(continuation)


def compare(prepared: scoring.PreparedTasks, ours: np.ndarray, score: Nats, name: str) -> dict:
    """The largest difference per token, and the number of documents whose best choice differs."""
    theirs, lengths = np.full(len(ours), np.nan), np.ones(len(ours))
    requests = sorted(_requests(prepared), key=lambda r: (len(r[1]), r[2]))
    bar = tqdm(total=len(requests), desc=name, unit="request", leave=False, disable=None)
    for _, same in itertools.groupby(requests, key=lambda r: (len(r[1]), r[2])):
        for some in iter(lambda same=same: list(itertools.islice(same, 16)), []):
            nats = score(np.stack([token for _, token, _ in some]), some[0][2])
            for (number, _, n), row in zip(some, nats, strict=True):
                theirs[number], lengths[number] = row.astype(np.float64).sum(), n
            bar.update(len(some))
    bar.close()
    rows, start, flips = prepared.requests.conditional, 0, 0
    for document in prepared.tasks[0].documents:
        own = rows[start : start + len(document.choices)]
        flips += int(ours[own].argmax() != theirs[own].argmax())
        start += len(own)
    return {
        "against": name,
        "requests": len(ours),
        "max_difference_per_token": float(np.max(np.abs(ours - theirs) / lengths)),
        "argmax_flips": flips,
    }


def main(arguments: list[str] | None = None) -> None:
    """Prints one JSON line per task and scorer, and at the end the worst value of each scorer."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.agreement", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m experiments.benchmarks.agreement --hf model --documents 200",
    )  # fmt: skip
    parser.add_argument("--hf", required=True, metavar="DIR", help="an OLMo 2 model")
    parser.add_argument("--tokenizer", default="dolma2", help="default: dolma2")
    parser.add_argument(
        "--documents", type=int, default=200, help="documents of each task (default: 200)"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="LABEL")
    parser.add_argument("--against", nargs="+", default=["plain", "transformers"],
                        choices=["plain", "transformers", "transformers-float64"])  # fmt: skip
    args = parser.parse_args(arguments)
    model = hf.read_config(args.hf)
    params = hf.read_params(args.hf, model)
    tokenizer = find_tokenizer(args.tokenizer)
    make = {
        "plain": lambda: plain(model, params),
        "transformers": lambda: transformers(args.hf, "float32"),
        "transformers-float64": lambda: transformers(args.hf, "float64"),
    }
    scorers = {name: make[name]() for name in args.against}
    found = []
    for label in args.tasks:
        task = olmes.load(label, args.documents)
        prepared = scoring.prepare([task], tokenizer, model.seq_len, unconditional=False)
        ours = loglik.score(model, params, prepared.plan).loglik
        for name, score in scorers.items():
            found.append({"task": label, **compare(prepared, ours, score, name)})
            print(json.dumps(found[-1]), flush=True)
    for name in scorers:
        own = [row for row in found if row["against"] == name]
        worst = max(row["max_difference_per_token"] for row in own)
        flips = sum(row["argmax_flips"] for row in own)
        print(json.dumps({"against": name, "worst": worst, "argmax_flips": flips}))


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"python -m experiments.benchmarks.agreement: {e}")
