"""Conversion of run directories from and to Hugging Face models: import-hf, export-hf."""

from __future__ import annotations

import argparse

from ladder_jax.cli.parsing import AddCommand


def add(command: AddCommand) -> None:
    """Adds import-hf and export-hf."""
    sub = command(
        "import-hf", import_hf, "Make a run directory from a Hugging Face OLMo 2 model.",
        "ladder import-hf --hf allenai/OLMo-2-0425-1B --n-tokens 4e12 --out run",
    )  # fmt: skip
    sub.add_argument("--hf", required=True, metavar="DIR_OR_NAME")
    sub.add_argument("--n-tokens", required=True, type=float, metavar="D",
                     help="tokens that the model was trained on")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="RUN")

    sub = command(
        "export-hf", export_hf, "Write a checkpoint as a directory that transformers loads.",
        "ladder export-hf --checkpoint run --out model",
    )  # fmt: skip
    sub.add_argument("--checkpoint", required=True, metavar="RUN")
    sub.add_argument("--step", type=int, metavar="N", help="default: the newest")
    sub.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    sub.add_argument("--out", required=True, metavar="DIR")


def export_hf(args: argparse.Namespace) -> None:
    """Writes a checkpoint as a directory that transformers loads."""
    from ladder_jax.models import counts
    from ladder_jax.training import convert

    made = convert.export_hf(args.checkpoint, args.out, args.step, args.dtype)
    n_params = counts.n_params_total(made.run.model)
    print(
        f"{args.out}: {made.run.name} at step {made.step}, {n_params:,} parameters in "
        f"{args.dtype}, {_with(made.has_tokenizer)} a tokenizer; transformers loads it"
    )


def import_hf(args: argparse.Namespace) -> None:
    """Makes a run directory from a Hugging Face model."""
    from ladder_jax.models import counts
    from ladder_jax.training import convert

    made = convert.import_hf(args.hf, args.out, args.n_tokens)
    if made.was_there:
        print(f"{args.out}: already holds {made.run.name}")
        return
    print(
        f"{args.out}: {made.run.name}, {counts.n_params_total(made.run.model):,} parameters "
        f"trained on {made.run.n_tokens:,} tokens, {_with(made.has_tokenizer)} a tokenizer"
    )


def _with(has: bool) -> str:
    return "with" if has else "without"
