"""The front door: `ladder COMMAND`.  Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from fitting import table
from fitting.table import InputError, Problem

_SHOWN_PROBLEMS = 20
_METHODS = ("paper", "bootstrap")
_FEATURES = ("bpb", "task_ce", "choice_prob", "lm_loss")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 only on success."""
    parser = _parser()
    args, extra = parser.parse_known_args(arguments)
    if extra and args.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    args.overrides = extra
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


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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

    run = command(
        "run", _run, "Train every run of an experiment, side by side, and measure them.",
        "ladder run quickstart --out quickstart",
    )  # fmt: skip
    run.add_argument("experiment", help="a folder of experiments/, such as quickstart")
    run.add_argument("--out", required=True, metavar="DIR")
    run.add_argument("--workers", type=int, metavar="N",
                     help="processes (default: one a core, or one on an accelerator)")  # fmt: skip

    status = command(
        "status", _status, "Show how far the runs of an experiment are.",
        "ladder status quickstart --out quickstart",
    )  # fmt: skip
    status.add_argument("experiment")
    status.add_argument("--out", required=True, metavar="DIR")

    train = command(
        "train", _train, "Train one run, from wherever it stopped; --key value overrides its "
        "config.", "ladder train quickstart/66K-0.5xC --out run --optim.lr_peak 0.02",
    )  # fmt: skip
    train.add_argument("config", metavar="RUN", help="EXPERIMENT/RUN, or a config.json")
    train.add_argument("--out", required=True, metavar="DIR")

    measure = command(
        "measure", _measure, "Turn runs into one measurement table.",
        "ladder measure --from olmo-ladder --out measurements.csv",
    )  # fmt: skip
    measure.add_argument("--from", dest="source", default="runs", choices=["runs", "olmo-ladder"],
                         help="runs: of `ladder train` and `run` (default)")  # fmt: skip
    measure.add_argument("--runs", metavar="DIR",
                         help="the runs (olmo-ladder: default what was downloaded)")  # fmt: skip
    measure.add_argument("--out", required=True, metavar="FILE", help=".csv or .parquet")
    measure.add_argument("--strict", action="store_true", help="fail if any row is bad")

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
    predict.add_argument("--feature", choices=_FEATURES, help="of two steps (default bpb)")
    predict.add_argument("--inputs", default="nd", choices=["nd", "c"], help="N and D, or FLOPs")
    predict.add_argument("--steps", default="two", choices=["two", "one"])
    predict.add_argument("--level", nargs="+", type=float, action="extend", metavar="P",
                         help="levels of the predictive intervals (default 0.95)")  # fmt: skip
    predict.add_argument("--figures", metavar="DIR", help="draw step 1, step 2 and chained here")
    predict.add_argument("--out", required=True, metavar="FILE", help="predictions.csv")
    predict.add_argument("--strict", action="store_true", help="fail if any row is bad")
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


def _runs(experiment: str) -> list[Any]:
    ladder = _experiment(experiment).LADDER
    return [*ladder.runs(), *(target.run for target in ladder.targets.values())]


def _run(args: argparse.Namespace) -> None:
    from ladder_jax import launch, measure
    from ladder_jax.download import cache_dir

    if not args.out or (args.workers is not None and args.workers < 1):
        raise InputError("--out must name a directory, and --workers be 1 or more")
    out, runs = Path(args.out), _runs(args.experiment)
    launch.claim_manifest(args.experiment, runs, out)
    launch.train_all(runs, out, cache_dir(), args.workers or launch.default_workers())
    frame = measure.from_runs(out)
    table.write(frame, out / "measurements.csv")
    print(f"{out / 'measurements.csv'}: {len(frame):,} measurements of {len(runs)} runs")


def _status(args: argparse.Namespace) -> None:
    import rich

    from ladder_jax import launch

    if not (Path(args.out) / "manifest.json").is_file():
        raise InputError(f"{args.out}: holds no experiment; ladder run writes it")
    rich.print(launch.status_table(_runs(args.experiment), Path(args.out)))


def _train(args: argparse.Namespace) -> None:
    from ladder_jax.config import RunConfig, load_json, override
    from ladder_jax.download import cache_dir

    if Path(args.config).suffix == ".json":
        run = load_json(RunConfig, args.config)
    else:
        experiment, _, name = args.config.partition("/")
        known = {run.name: run for run in _runs(experiment)}
        if name not in known:
            raise InputError(f"{experiment} has no run {name!r}; it has {', '.join(known)}")
        run = known[name]
    run = override(run, args.overrides)
    if not args.out:
        raise InputError("--out is empty: name a directory")

    from ladder_jax.score import train_and_score

    train_and_score(run, Path(args.out), cache_dir())
    print(
        f"{args.out}: {run.name} is trained and scored; ladder measure --runs {args.out} --out FILE"
    )


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

    if args.runs == "":
        raise InputError("--runs is empty: name a directory")
    if args.source == "runs":
        if args.runs is None:
            raise InputError("--runs DIR is needed: where `ladder run` or `train` wrote")
        frame = measure.from_runs(args.runs)
    else:
        frame, problems = measure.from_olmo_ladder(args.runs or download.olmo_ladder())
        _report(problems, args.strict)
    table.write(frame, args.out)
    runs, tasks = frame["run"].nunique(), frame["task"].nunique()
    print(f"{args.out}: {len(frame):,} measurements of {runs} runs and {tasks} tasks")


def _predict(args: argparse.Namespace) -> None:
    if Path(args.out).suffix != ".csv":
        raise InputError(f"--out {args.out!r} must end in .csv")
    if Path(args.out).resolve() == Path(args.measurements).resolve():
        raise InputError("--out is the measurements themselves: name another file")
    frame, problems = table.read(args.measurements)
    _report(problems, args.strict)

    from fitting import plots, predict, report

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
    table.write_atomically(
        args.out, lambda p: predictions.to_csv(p, index=False, lineterminator="\n")
    )
    _print_columns(report.prediction_cells(predictions))
    print("\n".join(report.summary(predictions)))
    for warning, tasks in predict.warnings(forecasts).items():
        print(f"note: {warning}: {', '.join(tasks)}")
    print(args.out)
    if args.figures:
        for name, figure in plots.figures(forecasts).items():
            path = Path(args.figures) / f"{name}.png"
            table.write_atomically(path, lambda p, f=figure: f.savefig(p, dpi=150))
            print(path)


def _report(problems: list[Problem], strict: bool) -> None:
    """Prints bad rows; with `strict`, fails instead of leaving them out."""
    for problem in problems[:_SHOWN_PROBLEMS]:
        print(problem, file=sys.stderr)
    if len(problems) > _SHOWN_PROBLEMS:
        print(f"... and {len(problems) - _SHOWN_PROBLEMS} more", file=sys.stderr)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} (above)"
    if problems and strict:
        raise InputError(f"{count}; nothing was written")
    if problems:
        print(f"{count}: bad rows and cells are left out; --strict fails", file=sys.stderr)


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
