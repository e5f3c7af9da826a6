"""Ahead-of-time compilation: compile."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ladder_jax.cli import show
from ladder_jax.cli.parsing import AddCommand, positive

_AXES: tuple[str, ...] = ("data", "fsdp", "tensor")


def _mesh(text: str) -> dict[str, int]:
    """Reads `data=1,fsdp=512,tensor=1`; an axis that is not named is 1."""
    sizes = dict.fromkeys(_AXES, 1)
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in sizes or not size.isdecimal() or int(size) < 1:
            raise argparse.ArgumentTypeError(
                f"{part!r} of {text!r} is not one of data, fsdp, tensor with a whole number, as in "
                "data=1,fsdp=512,tensor=1"
            )
        sizes[axis] = int(size)
    return sizes


def add(command: AddCommand) -> None:
    """Adds compile."""
    sub = command(
        "compile", compile_step,
        "Compile a training step for a TPU slice, on a machine without TPUs: does it fit?",
        "ladder compile --size 13B --topology v5p:8x8x8",
    )  # fmt: skip
    sub.add_argument("--size", required=True, help="a published size, such as 190M or 13B")
    sub.add_argument("--topology", required=True, metavar="SLICE", help="v5e:4x4, v5p:8x8x8 ...")
    sub.add_argument(
        "--mesh",
        type=_mesh,
        metavar="data=D,fsdp=F,tensor=T",
        help="default: the least tensor parallelism, then the fewest copies of the parameters",
    )
    sub.add_argument(
        "--batch-seqs",
        type=positive,
        metavar="N",
        help="sequences in a step (default: as published, else from the recipe)",
    )
    sub.add_argument(
        "--micro-seqs",
        type=positive,
        default=1,
        metavar="N",
        help="sequences that a chip computes at once (default: 1, the least memory)",
    )
    sub.add_argument(
        "--remat",
        choices=("none", "dots", "full"),
        default="full",
        help="what the backward pass recomputes (default: full, the least memory)",
    )
    sub.add_argument("--attention", choices=("auto", "plain", "fused"), default="auto")
    sub.add_argument(
        "--search",
        action="store_true",
        help="find the fastest mesh, remat policy and micro-batch that fit",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")


def compile_step(args: argparse.Namespace) -> None:
    """Compiles the step of a published size for a slice; prints whether and how it fits."""
    from ladder_jax.aot.examine import Request, examine

    names = ("mesh", "batch_seqs", "micro_seqs", "remat", "attention", "search")
    options = {name: getattr(args, name) for name in names}
    result = examine(Request(args.size, args.topology, **options))
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    mesh = " x ".join(f"{axis} {result['mesh'][axis]}" for axis in ("data", "fsdp", "tensor"))
    print(
        f"{result['size']} on {result['topology']}: {result['chips']} chips, {mesh}; "
        f"{result['batch_seqs']} sequences a step, {result['mesh']['micro_seqs']} at once on a "
        f"chip; remat {result['remat']}"
    )
    rows = [["a chip's memory", "GiB"]]
    for label, key in (
        ("parameters", "bytes_parameters"), ("optimiser", "bytes_optimizer"),
        ("temporaries", "bytes_activations"), ("total", "bytes_total"), ("of", "hbm_bytes"),
    ):  # fmt: skip
        rows.append([label, f"{result[key] / 2**30:.2f}"])
    show.columns(rows)
    short = result["short_by"] / 2**30
    print("fits" if result["fits"] else f"does not fit: short by {short:.2f} GiB a chip")
    print(
        f"FLOPs of a step: {result['flops']:.4g}, {result['flops_ratio']:.4f} of the closed form "
        "6 (N - norms) + 12 layers D L a token"
    )
    kinds = [f"{count} {kind}" for kind, count in result["collectives"].items()]
    print(f"collectives in the program, a loop's once: {', '.join(kinds) or 'none'}")
    print(f"compiled in {result['compile_seconds']:.0f} s; ladder train RUN --out DIR \\")
    print(f"  {result['overrides']}")
