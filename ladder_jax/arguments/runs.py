"""Ladders and their runs: what their commands take."""

from __future__ import annotations

from ladder_jax.arguments.parsing import Command


def add(command: Command) -> None:
    """Adds plan, run, status, train."""
    plan = command("plan", "Print a ladder and its cost.", "ladder plan task_ladders --json")
    plan.add_argument("experiment", help="a folder of experiments/, such as task_ladders")
    plan.add_argument("--json", action="store_true", help="print JSON")

    run = command(
        "run", "From text to a forecast: train a ladder, forecast its targets, compare.",
        "ladder run quickstart --out quickstart",
    )  # fmt: skip
    run.add_argument("experiment", help="a folder of experiments/, such as quickstart")
    run.add_argument("--out", required=True, metavar="DIR")
    run.add_argument("--workers", type=int, metavar="N",
                     help="processes (default: one a core, or one on an accelerator)")  # fmt: skip

    status = command(
        "status", "Show how far the runs of an experiment are.",
        "ladder status quickstart --out quickstart",
    )  # fmt: skip
    status.add_argument("experiment")
    status.add_argument("--out", required=True, metavar="DIR")

    train = command(
        "train", "Train one run, from wherever it stopped; --key value overrides its "
        "config.", "ladder train quickstart/66K-0.5xC --out run --optim.lr_peak 0.02",
    )  # fmt: skip
    train.add_argument("config", metavar="RUN", help="EXPERIMENT/RUN, or a config.json")
    train.add_argument("--out", required=True, metavar="DIR")
