"""Ladders and their runs: init, plan, run, status, train."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fitting.errors import InputError
from ladder_jax.cli import show
from ladder_jax.cli.parsing import AddCommand, positive, processes

_EXPERIMENT = "a shipped experiment, such as quickstart, or a .py file"


def add(command: AddCommand) -> None:
    """Adds init, plan, run, status, train."""
    sub = command(
        "init", init, "Write a commented experiment file for your own text, and print its plan.",
        "ladder init mine.py --text my_text",
    )  # fmt: skip
    sub.add_argument("file", metavar="FILE.py", help="the file to write")
    sub.add_argument("--text", required=True, metavar="DIR",
                     help="a directory or file of .txt, .md or .jsonl")  # fmt: skip

    sub = command("plan", plan, "Print a ladder and its cost.", "ladder plan task_ladders --json")
    sub.add_argument("experiment", help=_EXPERIMENT)
    sub.add_argument("--json", action="store_true", help="print JSON")

    _add_run(command)

    sub = command(
        "status", status, "Show the progress of an experiment's runs.", "ladder status quickstart"
    )
    sub.add_argument("directory", metavar="DIR", help="what ladder run took as --out")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command(
        "train", train, "Train one run, from its last checkpoint if there is one; --key value "
        "overrides its config.", "ladder train quickstart/66K-0.5xC --out run --optim.lr_peak 0.02",
    )  # fmt: skip
    sub.add_argument("config", metavar="RUN",
                     help="EXPERIMENT/RUN, as quickstart/66K-1xC or mine.py/66K-1xC, or a "
                          "config.json")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="DIR")
    processes(sub)
    sub.add_argument("--no-score", action="store_true", help="train only, without scoring")


def _add_run(command: AddCommand) -> None:
    sub = command(
        "run", run, "From text to a forecast: train a ladder, forecast its targets, compare. "
        "Ray and Slurm need DIR on a disk that all nodes share. --data.KEY and --mesh.KEY "
        "override the config of all runs.",
        "ladder run quickstart --out quickstart\n"
        "  ladder run ./mine.py --out mine\n"
        "  ladder run task_ladders --out /shared/ladder --executor ray --resources tpu=v5p-128\n"
        "  ladder run task_ladders --out /shared/ladder --executor slurm \\\n"
        "    --slurm partition=gpu gpus_per_node=8 cpus_per_task=32 time=2880 1.3B:nodes=2",
    )  # fmt: skip
    sub.add_argument("experiment", help=_EXPERIMENT)
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--no-targets", action="store_true",
                     help="train and measure only the ladder")  # fmt: skip
    sub.add_argument("--executor", choices=("local", "ray", "slurm"), default="local",
                     help="processes of this machine, tasks of a Ray cluster, or a Slurm job array "
                     "(extra: launch)")  # fmt: skip
    sub.add_argument("--workers", type=positive, metavar="N",
                     help="local: processes (default: one per core, or one if there is "
                     "an accelerator)")  # fmt: skip
    sub.add_argument("--address", default="auto", metavar="HOST:PORT",
                     help="ray: the cluster (default: the one to which this machine "
                     "belongs)")  # fmt: skip
    sub.add_argument("--resources", nargs="+", default=[], metavar="[SIZE:]KEY=VALUE",
                     help="ray: resources of a run: cpu, gpu, memory (bytes), tpu (a slice, such "
                     "as v5p-128), or a custom resource (default: cpu=1)")  # fmt: skip
    sub.add_argument("--slurm", nargs="+", default=[], metavar="[SIZE:]KEY=VALUE",
                     help="slurm: parameters of sbatch by submitit's names: partition, account, "
                     "nodes, gpus_per_node, time in minutes (default: a day), ...")  # fmt: skip


def init(args: argparse.Namespace) -> None:
    """Writes an experiment file for a user's text, and prints its plan."""
    from ladder_jax import experiment, template

    written = template.write(args.file, args.text)
    print(
        f"{args.file}: for {written.n_documents:,} documents of {args.text} with "
        f"{written.n_tokens:,} training tokens; tasks from the held-out text: "
        f"{', '.join(written.tasks) or 'no tasks, it is too short'}"
    )
    if written.epochs > 1:
        print(f"note: the target reads the text {written.epochs:.1f} times: give more text")
    _print_plan(experiment.load(args.file))
    name = Path(args.file).stem
    print(f"next: ladder run {args.file} --out {name}")


def plan(args: argparse.Namespace) -> None:
    """Prints a ladder and its cost."""
    from ladder_jax import experiment, ladder

    loaded = experiment.load(args.experiment)
    if args.json:
        print(json.dumps(ladder.plan(loaded.ladder), indent=2))
    else:
        _print_plan(loaded)


def _print_plan(loaded: Any) -> None:
    from ladder_jax import ladder

    result = ladder.plan(loaded.ladder)
    columns = ("run", "n_params", "n_tokens", "steps", "batch_seqs", "lr_peak", "warmup_steps",
               "flops")  # fmt: skip
    rows = [[show.cell(row[c]) for c in columns] for row in result["runs"] + result["targets"]]
    show.columns([list(columns), *rows])
    for target, share in result["cost"]["ladder_share_of"].items():
        name = "all targets together" if target == "all" else target
        print(f"the ladder costs {share:.2%} of {name} ({result['cost']['convention']})")


def run(args: argparse.Namespace) -> None:
    """Trains a ladder, locks the forecast of its targets, scores them, and compares."""
    from ladder_jax.study import Study

    study = Study(args.experiment, args.out, args.overrides)
    study.executor = _executor(args, study)
    targets = bool(study.targets) and not args.no_targets
    study.check(targets)
    with study:
        study.train(targets)
        _print_measured(study)
        if not targets:
            return
        study.forecast()
        print(f"{study.out / 'predictions.lock'}: the forecast is locked; now the target is scored")
        study.score_targets()
        report = study.report()
        _print_measured(study)
    show.predictions(report.predictions)
    show.notes(report.notes, report.n_tasks)
    print(report.page)


def _print_measured(study: Any) -> None:
    frame = study.measure()
    n_runs = frame["run"].nunique()
    print(f"{study.out / 'measurements.csv'}: {len(frame):,} measurements of {n_runs} runs")


def _executor(args: argparse.Namespace, study: Any) -> Any:
    """The executor chosen by the flags; flags of another executor are an error."""
    from ladder_jax import launch
    from ladder_jax.runtime.paths import cache_dir

    given = {"local": args.workers, "ray": args.resources, "slurm": args.slurm}
    for kind, value in given.items():
        if value and kind != args.executor:
            raise InputError(f"`executor` {args.executor} takes no flags of {kind}: remove them")
    sizes = {run.size for run in [*study.grid, *study.targets]}
    if args.executor == "ray":
        from ladder_jax.launch.on_ray import Ray

        return Ray(
            study.out, args.address, launch.Demands.parse(args.resources, "resources", sizes)
        )
    if args.executor == "slurm":
        from ladder_jax.launch.on_slurm import Slurm

        return Slurm(study.out, launch.Demands.parse(args.slurm, "slurm", sizes))
    return launch.Local(args.workers or launch.default_workers(), cache_dir())


def status(args: argparse.Namespace) -> None:
    """Prints the progress of an experiment's runs."""
    from ladder_jax import launch

    out = Path(args.directory)
    name, runs = launch.read_manifest(out)
    if args.json:
        rows = [launch.progress(run, launch.run_directory(out, run)) for run in runs]
        print(json.dumps({"experiment": name, "runs": rows}, indent=2))
    else:
        launch.console().print(launch.status_table(runs, out))


def train(args: argparse.Namespace) -> None:
    """Trains and scores one run."""
    from ladder_jax.config_text import override
    from ladder_jax.runtime import compilation, preemption
    from ladder_jax.runtime.paths import cache_dir

    preemption.exit_on_sigterm()  # until training handles the signal itself
    compilation.keep(cache_dir())  # before what follows imports JAX
    compilation.hold_memory()
    run = override(_find_run(args.config), args.overrides)
    if not args.out:
        raise InputError("`out` is empty: name a directory")

    from ladder_jax import parallel
    from ladder_jax.eval.runs import train_and_score
    from ladder_jax.runtime import distributed
    from ladder_jax.training import loop

    distributed.initialize(args.coordinator, args.process_count, args.process_id)
    function = loop.train if args.no_score else train_and_score
    function(run, Path(args.out), cache_dir(), progress=sys.stderr.isatty())
    if parallel.is_primary() and not args.no_score:
        print(
            f"{args.out}: {run.name} is trained and scored; "
            f"ladder measure --runs {args.out} --out FILE"
        )


def _find_run(name: str) -> Any:
    """The run of `EXPERIMENT/RUN`, or of a config file."""
    from ladder_jax import experiment
    from ladder_jax.config import RunConfig
    from ladder_jax.config_text import load_json

    if Path(name).suffix == ".json":
        return load_json(RunConfig, name)
    of, _, run_name = name.rpartition("/")
    if not of:
        raise InputError(f"{name}: write EXPERIMENT/RUN, as quickstart/66K-1xC, or a config.json")
    ladder = experiment.load(of).ladder
    runs = [*ladder.runs(), *(target.run for target in ladder.targets.values())]
    known = {run.name: run for run in runs}
    if run_name not in known:
        raise InputError(f"{of} has no run {run_name!r}; it has {', '.join(known)}")
    return known[run_name]
