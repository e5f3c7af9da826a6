"""Speed of the training step: ours against OLMo 2 of transformers on torch.

Command:  python -m experiments.benchmarks.train_step
Hardware: one CPU core.  The `torch` sides need the extra `bench`.
Time:     three and a half minutes with --rounds 4 --steps 4.
Expected: README.md of this folder.

Sides:
  ours   the jitted step of training (ladder_jax/training/step.py), float32 or bfloat16; `custom` is
         float32 with model.linear custom
  torch  Olmo2ForCausalLM with scaled-dot-product attention, cross-entropy of all logits, clipping
         and fused AdamW, float32 or under bfloat16 autocast

Width 128, 4 layers, 4 heads, feed-forward 512, vocabulary 4096, 8 sequences of 256 tokens.  Initial
weights, batches, AdamW's constants, weight decay (none on the input table) and the learning rate of
every step are equal; neither side has the z-loss.  Each side is a process with one core and one
thread that keeps freed memory.  The sides take turns: a round is some steps of each side.  In every
round a side also multiplies two 1024 x 1024 matrices in float32; utilisation (MFU) is relative to
the fastest of these products.  FLOPs of a token: 6 for each weight of a matrix, the head included,
and 12 x layers x width x length for attention, not halved for causality.
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

SIDES = ("ours float32", "ours custom", "ours bfloat16", "torch float32", "torch bfloat16")
_COMMAND = "python -m experiments.benchmarks.train_step"


def main(arguments: list[str] | None = None) -> None:
    """Prints one JSON line per side, and at the end the ratios."""
    args = _parser().parse_args(arguments)
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing and any(side.startswith("torch") for side in args.sides):
        raise InputError(f"the torch sides need {missing[0]}: pip install 'ladder_jax[bench]'")
    with tempfile.TemporaryDirectory(prefix="train-step-") as home:
        with common.one_thread():  # inherited by the processes that start here
            sides = {side: _Side(side, home) for side in dict.fromkeys(args.sides)}
            for side in sides.values():
                side.begin()
        bar = tqdm(total=args.rounds * len(sides), unit="round", leave=False, disable=None)
        for _ in range(args.rounds):
            for side in sides.values():
                side.round(args.steps)
                bar.update()
        bar.close()
        for side in sides.values():
            side.end()
    reference = sides.get("torch float32")
    for side in sides.values():
        shown = side.measured()
        if reference is not None and side is not reference:
            apart = np.abs(np.subtract(side.losses, reference.losses))
            shown["max_loss_diff"] = float(apart.max())
        print(json.dumps(common.rounded(shown)))
    print(json.dumps(common.rounded({"ratios": _ratios(sides)})))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {_COMMAND} --sides 'ours float32' --rounds 3",
    )  # fmt: skip
    add = parser.add_argument
    add("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE",
        help=f"{', '.join(map(repr, SIDES))} (all)")  # fmt: skip
    add("--rounds", type=int, default=12, help="rounds of every side, in turns (12)")
    add("--steps", type=int, default=6, help="steps in a round (6)")
    return parser


class _Side:
    """The process of a side, which waits between rounds, and its measurements."""

    def __init__(self, name: str, home: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(name, home, other), daemon=True)
        self.process.start()
        other.close()
        self.seconds: list[list[float]] = []
        self.peaks: list[float] = []
        self.losses: list[float] = []
        self.facts: dict[str, Any] = {}

    def begin(self) -> None:
        """Waits until it has compiled and done the steps whose losses are compared."""
        self.facts, self.losses = self._answer()

    def round(self, n_steps: int) -> None:
        """Makes it do steps and measure its peak; waits for the result."""
        self.pipe.send(n_steps)
        seconds, peak = self._answer()
        self.seconds.append(seconds)
        self.peaks.append(peak)

    def end(self) -> None:
        self.pipe.send(0)
        self.process.join()

    def best(self) -> float:
        """The fewest CPU seconds of a step."""
        return min(map(min, self.seconds))

    def measured(self) -> dict[str, Any]:
        """CPU seconds of a step, tokens per CPU second, and utilisation."""
        best, peak = self.best(), max(self.peaks)
        n_tokens, flops = self.facts["tokens"], self.facts["flops_per_token"]
        return {
            "side": self.name,
            **self.facts,
            "cpu_s_best": best,
            "cpu_s_median": float(np.median(self.seconds)),
            "tokens_per_cpu_s": n_tokens / best,
            "peak_gflops": peak,
            "mfu": n_tokens * flops / best / peak / 1e9,
            "loss_first": self.losses[0],
            "loss_last": self.losses[-1],
        }

    def _answer(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:  # it has printed the reason
            self.process.join()
            sys.exit(self.process.exitcode or 1)


def _ratios(sides: dict[str, _Side]) -> dict[str, Any]:
    """Ratios of tokens per CPU second, ours to others: of best steps, and medians of the rounds."""
    found = {}
    for ours in (s for s in sides.values() if s.name.startswith("ours")):
        for other in (s for s in sides.values() if s.name.startswith("torch")):
            pairs = zip(other.seconds, ours.seconds, strict=True)
            each = [float(np.median(a) / np.median(b)) for a, b in pairs]
            found[f"{ours.name} / {other.name}"] = {
                "best": other.best() / ours.best(),
                "median_of_rounds": float(np.median(each)),
            }
    return found


def _serve(name: str, home: str, pipe: Any) -> None:
    """The main loop of a side's process, which ends when the number of steps is 0."""
    from experiments.benchmarks import train_step_sides  # imports nothing before `one_thread`

    try:
        side = train_step_sides.start(name, home)
        pipe.send((side.facts, side.losses))
        while n_steps := pipe.recv():
            pipe.send(side.round(n_steps))
    except InputError as e:
        sys.exit(f"{_COMMAND}: {e}")


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"{_COMMAND}: {e}")
