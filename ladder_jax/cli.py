"""The front door: `ladder COMMAND`.  Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fitting import table
from fitting.table import InputError, Problem

_SHOWN_PROBLEMS = 20
_METHODS = ("paper",)
_FEATURES = ("bpb", "task_ce", "choice_prob", "lm_loss")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 only on success."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except InputError as e:
        print(f"ladder {args.command}: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `ladder plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"ladder {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ladder",
        description="Forecast what a language model will be able to do before it is trained.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  ladder plan task_ladders",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    plan = command("plan", _plan, "Print a ladder and its cost.", "ladder plan task_ladders --json")
    plan.add_argument("experiment", help="a folder of experiments/, such as task_ladders")
    plan.add_argument("--json", action="store_true", help="print JSON")

    download = command(
        "download", _download, "Fetch public data, checked by SHA-256.",
        "ladder download olmo-ladder",
    )  # fmt: skip
    download.add_argument("name", choices=["olmo-ladder"], help="what to fetch")
    download.add_argument("--from", dest="source", metavar="DIR", help="copy from a directory")

    measure = command(
        "measure", _measure, "Turn runs into one measurement table.",
        "ladder measure --from olmo-ladder --out measurements.csv",
    )  # fmt: skip
    measure.add_argument("--from", dest="source", required=True, choices=["olmo-ladder"])
    measure.add_argument("--runs", metavar="DIR", help="the runs (default: what was downloaded)")
    measure.add_argument("--out", required=True, metavar="FILE", help=".csv or .parquet")
    measure.add_argument("--strict", action="store_true", help="fail on the first bad row")

    predict = command(
        "predict", _predict, "Fit the training runs and forecast the targets.",
        "ladder predict --measurements measurements.csv --train '190M-*' '370M-*' '760M-*' "
        "'1.3B-*' \\\n    --target 7B-4T 13B-5T --method paper --out predictions.csv",
    )  # fmt: skip
    predict.add_argument("--measurements", required=True, metavar="FILE")
    predict.add_argument("--train", required=True, nargs="+", metavar="PATTERN",
                         help="shell patterns of run names")  # fmt: skip
    predict.add_argument("--target", required=True, nargs="+", metavar="RUN",
                         help="run names, or NAME=N_PARAMS,N_TOKENS[,FLOPS] for a run to "
                              "come")  # fmt: skip
    predict.add_argument("--tasks", nargs="+", default=["main"], metavar="LABEL",
                         help="task labels; main: the paper's eight (default)")  # fmt: skip
    predict.add_argument("--method", default="paper", choices=_METHODS)
    predict.add_argument("--feature", default="bpb", choices=_FEATURES)
    predict.add_argument("--inputs", default="nd", choices=["nd", "c"], help="N and D, or FLOPs")
    predict.add_argument("--steps", default="two", choices=["two", "one"])
    predict.add_argument("--level", nargs="+", type=float, action="extend", metavar="P",
                         help="levels of the predictive intervals (default 0.95)")  # fmt: skip
    predict.add_argument("--figures", metavar="DIR", help="draw step 1, step 2 and chained here")
    predict.add_argument("--out", required=True, metavar="FILE", help="predictions.csv")
    predict.add_argument("--strict", action="store_true", help="fail on the first bad row")
    return parser


def _plan(args: argparse.Namespace) -> None:
    from ladder_jax.ladder import plan

    result = plan(_experiment(args.experiment).LADDER)
    if args.json:
        print(json.dumps(result, indent=2))
        return
    columns = ("run", "n_params", "n_tokens", "steps", "batch_seqs", "lr_peak", "warmup_steps",
               "flops")  # fmt: skip
    rows = [[_cell(row[c]) for c in columns] for row in result["runs"] + result["targets"]]
    _print_columns([list(columns), *rows])
    for target, share in result["cost"]["ladder_share_of"].items():
        name = "all targets together" if target == "all" else target
        print(f"the ladder costs {share:.2%} of {name} ({result['cost']['convention']})")


def _experiment(name: str) -> Any:
    try:
        return importlib.import_module(f"experiments.{name}.config")
    except ModuleNotFoundError:
        import experiments

        found = sorted(p.parent.name for p in Path(experiments.__path__[0]).glob("*/config.py"))
        raise InputError(f"no experiment {name!r}; there are: {', '.join(found)}") from None


def _download(args: argparse.Namespace) -> None:
    from ladder_jax import download

    print(download.olmo_ladder(args.source))


def _measure(args: argparse.Namespace) -> None:
    from ladder_jax import download, measure

    frame, problems = measure.from_olmo_ladder(args.runs or download.olmo_ladder())
    _report(problems, args.strict)
    table.write(frame, args.out)
    runs, tasks = frame["run"].nunique(), frame["task"].nunique()
    print(f"{args.out}: {len(frame):,} measurements of {runs} runs and {tasks} tasks")


def _predict(args: argparse.Namespace) -> None:
    frame, problems = table.read(args.measurements)
    _report(problems, args.strict)

    from fitting import predict

    forecasts = predict.forecast(
        frame,
        train=args.train,
        targets=args.target,
        tasks=args.tasks,
        method=args.method,
        feature=args.feature,
        inputs=args.inputs,
        steps=args.steps,
        levels=args.level or [0.95],
    )
    predictions = predict.to_frame(forecasts)
    if args.figures:
        _draw(forecasts, Path(args.figures))
    table.write_atomically(
        args.out, lambda p: predictions.to_csv(p, index=False, lineterminator="\n")
    )
    _print_predictions(predictions)
    for warning, tasks in predict.warnings(forecasts).items():
        print(f"note: {warning}: {', '.join(tasks)}")
    print(args.out)


def _draw(forecasts: Sequence[Any], directory: Path) -> None:
    from fitting import plots

    figures = {"chained": plots.plot_chained}
    if forecasts[0].step2 is not None:
        figures = {"step1": plots.plot_step1, "step2": plots.plot_step2} | figures
    titles = {
        "step1": "Step 1: task loss from parameters and tokens",
        "step2": "Step 2: accuracy from task loss",
        "chained": "Chained: accuracy from parameters and tokens",
    }
    for name, plot in figures.items():
        fig = plots.figure(forecasts, plot, titles[name])
        path = directory / f"{name}.png"
        table.write_atomically(path, lambda p, f=fig: f.savefig(p, dpi=150))
        print(path)


def _print_predictions(predictions: Any) -> None:
    head = ["task", "target", "level", "pred %", "interval %", "measured %", "error, points"]
    rows = [head]
    for row in predictions.to_dict("records"):
        known = row["actual"] == row["actual"]
        rows.append(
            [
                row["task"],
                row["target"],
                f"{row['level']:g}",
                f"{100 * row['pred']:.1f}",
                f"{100 * row['lo']:.1f} .. {100 * row['hi']:.1f}",
                f"{100 * row['actual']:.1f}" if known else "",
                f"{100 * row['abs_error']:.2f}" if known else "",
            ]
        )
    _print_columns(rows)
    once = predictions.drop_duplicates(["task", "target"]).dropna(subset=["actual"])
    for target, group in once.groupby("target", sort=False):
        error, relative = 100 * group["abs_error"].mean(), group["rel_error"].mean()
        print(f"{target}: mean error {error:.2f} points ({relative:.1%}) over {len(group)} tasks")


def _report(problems: list[Problem], strict: bool) -> None:
    """Prints bad rows; with `strict`, fails instead of leaving them out."""
    for problem in problems[:_SHOWN_PROBLEMS]:
        print(problem, file=sys.stderr)
    if len(problems) > _SHOWN_PROBLEMS:
        print(f"... and {len(problems) - _SHOWN_PROBLEMS} more", file=sys.stderr)
    if problems and strict:
        raise InputError(f"{len(problems)} bad rows (above); nothing was written")
    if problems:
        print(f"left out {len(problems)} bad rows; --strict fails on them", file=sys.stderr)


def _print_columns(rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first, *rest = (cell.rjust(w) for cell, w in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *rest]))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and value < 1e16 else _short(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
