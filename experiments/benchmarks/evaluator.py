"""Speed of log-likelihoods of multiple-choice tasks: our packed scorer against three others.

Command:  python -m experiments.benchmarks.evaluator
Hardware: one CPU core.  Needs `ladder download olmes`, and for `harness` the extra `bench`.
Time:     about two hours, nearly all of it for the other sides.
Expected: README.md of this folder.

Sides:
  ours            packing.plan and loglik.score; packing is timed
  plain           our decoder, one request per row, 8 rows of similar length padded to a multiple
                  of 64 tokens, logits and log_softmax at every token
  plain_gathered  as plain, but logits only where a continuation is predicted
  harness         lm-evaluation-harness: HFLM._loglikelihood_tokens on torch, float32, with the
                  fastest batch size of 1, 8 and 32 on 32 requests

The model has 57 million random weights (width 384, 8 layers).  All sides get the same token ids:
those of dolma2, modulo --vocabulary if that is smaller.  The requests are the conditional ones of
each task's first documents; tokenisation and loading are not timed.  Each side runs in a process
with one core and one thread that keeps freed memory; ours runs before and after the others.

CPU seconds are warm: for ours the median of later calls (the first gives `cold` and `compile`), for
the others one call after each shape was computed once.  `agreement` is the largest |difference| /
tokens from ours, and the number of documents whose likeliest choice differs.  `ceiling` is the sum
of tokens of all requests / the number of tokens that ours computes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import sys
import tempfile
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.benchmarks import common
from fitting.errors import InputError

# Nothing here imports JAX: memory of this process would count in the peak memory of its children.
TASKS = (
    "arc_challenge_test_rc_5shot", "hellaswag_val_rc_5shot", "piqa_val_rc_5shot",
    "csqa_val_rc_5shot", "mmlu_stem_test_rc_5shot",
)  # fmt: skip
SIDES = ("ours", "plain", "plain_gathered", "harness")
_NEEDED = ("torch", "transformers", "accelerate", "lm_eval")  # for the harness
_COMMAND = "python -m experiments.benchmarks.evaluator"


def main(arguments: list[str] | None = None) -> None:
    """Prints one JSON line per measurement, and at the end the ratios."""
    args = _parser().parse_args(arguments)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if "harness" in args.sides and missing:
        raise InputError(f"side harness needs {missing[0]}: pip install 'ladder_jax[bench]'")
    with tempfile.TemporaryDirectory(prefix="evaluator-") as home:
        _child("prepare", home, args.tasks, args.documents, args.vocabulary)
        ratios = {task: _task(home, i, task, args) for i, task in enumerate(args.tasks)}
    print(json.dumps({"ratios": common.rounded(ratios)}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {_COMMAND} --tasks piqa_val_rc_5shot --documents 20",
    )  # fmt: skip
    add = parser.add_argument
    add("--tasks", nargs="+", default=list(TASKS), metavar="LABEL", help=f"({', '.join(TASKS)})")
    add("--documents", type=int, default=300, help="documents of each task (300)")
    add("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="(all)")
    add("--repeats", type=int, default=3, help="warm calls of ours, each time it runs (3)")
    add("--harness-documents", type=int, metavar="N",
        help="documents for the harness; its seconds are then scaled by tokens (all)")  # fmt: skip
    add(
        "--vocabulary",
        type=int,
        default=50_304,
        help="vocabulary of the model (50304; that of dolma2 is 100352)",
    )
    return parser


def _task(home: str, number: int, task: str, args: argparse.Namespace) -> dict[str, float]:
    """Measures every side on one task, with a line for each; returns their seconds over ours."""
    sides = [side for side in SIDES if side in args.sides]
    if "ours" in sides and len(sides) > 1:
        sides.append("ours")  # the speed of the machine may have changed meanwhile
    requests = f"{home}/{number}.npz"
    reference, seconds, ratios = None, {}, {}
    for side in tqdm(sides, task, unit="side", leave=False, disable=None):
        documents = args.harness_documents if side == "harness" else None
        job = (f"{home}/model", requests, documents, args.repeats)
        chosen = _measure("batch_size", home, *job)[1] if side == "harness" else {}
        found, cells = _measure(side, home, *job, chosen.get("batch_size", 1))
        reference = found if reference is None else reference
        shown = {"side": f"{side}, again" if side in seconds else side, "task": task}
        shown |= cells | {k: v for k, v in chosen.items() if k not in ("peak_gb", "cpu_s")}
        shown |= _compared(requests, reference, found)
        if documents and len(found) < len(reference):
            shown |= _scaled(requests, len(found), cells["cpu_s"])
        tqdm.write(json.dumps(common.rounded(shown)), file=sys.stdout)
        calls = shown.get("warm_cpu_s", [shown.get("scaled_cpu_s", shown["cpu_s"])])
        seconds[side] = [*seconds.get(side, []), *calls]
        ratios |= {k: v for k, v in cells.items() if k == "ceiling"}
    middle = {side: float(np.median(calls)) for side, calls in seconds.items()}
    others = [side for side in middle if side != "ours" in middle]
    return ratios | {f"{side}/ours": middle[side] / middle["ours"] for side in others}


def _measure(side: str, home: str, *job: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Runs a side in a separate process; returns its log-likelihoods and measurements."""
    _child("run", side, job, f"{home}/out")
    with open(f"{home}/out.json", encoding="utf-8") as file:
        return np.load(f"{home}/out.npy", allow_pickle=False), json.load(file)


def _child(function: str, *args: Any) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_call, args=(function, *args))
    with common.one_thread():
        process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def _call(function: str, *args: Any) -> None:
    from experiments.benchmarks import evaluator_sides

    try:
        getattr(evaluator_sides, function)(*args)
    except InputError as e:
        sys.exit(f"{_COMMAND}: {e}")


def _compared(requests: str, reference: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """Numbers of scored documents and requests, and their agreement with the reference."""
    with np.load(requests, allow_pickle=False) as file:
        tokens, request, document = file["lengths"][:, 1], file["request"], file["document"]
    apart = np.abs(found - reference[: len(found)]) / tokens[: len(found)]
    choices = [request[document == d] for d in np.unique(document)]
    choices = [rows for rows in choices if rows.max() < len(found)]
    flips = sum(found[rows].argmax() != reference[rows].argmax() for rows in choices)
    return {
        "documents": len(choices),
        "requests": len(found),
        "agreement": {"max_diff_per_token": float(apart.max()), "argmax_flips": int(flips)},
    }


def _scaled(requests: str, n: int, seconds: float) -> dict[str, Any]:
    """Seconds for all requests, estimated by tokens from the seconds for the first n."""
    with np.load(requests, allow_pickle=False) as file:
        tokens = file["lengths"].sum(axis=1)
    return {"scaled_cpu_s": seconds * float(tokens.sum() / tokens[:n].sum()), "scaled": True}


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"{_COMMAND}: {e}")
