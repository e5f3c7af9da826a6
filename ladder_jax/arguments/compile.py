"""Ahead-of-time compilation: what its command takes."""

from __future__ import annotations

import argparse

from ladder_jax.arguments.parsing import Command, positive

_AXES: tuple[str, ...] = ("data", "fsdp", "tensor")


def mesh(text: str) -> dict[str, int]:
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


def add(command: Command) -> None:
    """Adds compile."""
    sub = command(
        "compile", "Compile a training step for a TPU slice that is not here: does it fit?",
        "ladder compile --size 13B --topology v5p:8x8x8",
    )  # fmt: skip
    sub.add_argument("--size", required=True, help="a published size, such as 190M or 13B")
    sub.add_argument("--topology", required=True, metavar="SLICE", help="v5e:4x4, v5p:8x8x8 ...")
    sub.add_argument(
        "--mesh",
        type=mesh,
        metavar="data=D,fsdp=F,tensor=T",
        help="default: the least tensor parallelism, then the fewest copies",
    )
    sub.add_argument(
        "--batch-seqs",
        type=positive,
        metavar="N",
        help="sequences of a step (default: as published, else the recipe's)",
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
