"""Ladders and their runs: what their commands take."""

from __future__ import annotations

from ladder_jax.arguments.parsing import Command, positive, processes


def add(command: Command) -> None:
    """Adds plan, run, status, train."""
    plan = command("plan", "Print a ladder and its cost.", "ladder plan task_ladders --json")
    plan.add_argument("experiment", help="a folder of experiments/, such as task_ladders")
    plan.add_argument("--json", action="store_true", help="print JSON")

    run = command(
        "run", "From text to a forecast: train a ladder, forecast its targets, compare. "
        "Ray and Slurm need DIR on a disk that all nodes share. --data.KEY and --mesh.KEY "
        "override the config of all runs.",
        "ladder run quickstart --out quickstart\n"
        "  ladder run task_ladders --out /shared/ladder --executor ray --resources tpu=v5p-128\n"
        "  ladder run task_ladders --out /shared/ladder --executor slurm \\\n"
        "    --slurm partition=gpu gpus_per_node=8 cpus_per_task=32 time=2880 1.3B:nodes=2",
    )  # fmt: skip
    run.add_argument("experiment", help="a folder of experiments/, such as quickstart")
    run.add_argument("--out", required=True, metavar="DIR")
    run.add_argument("--no-targets", action="store_true",
                     help="train and measure the ladder alone")  # fmt: skip
    run.add_argument("--executor", choices=("local", "ray", "slurm"), default="local",
                     help="processes of this machine, tasks of a Ray cluster, a Slurm job array "
                     "(extra: launch)")  # fmt: skip
    run.add_argument("--workers", type=positive, metavar="N",
                     help="local: processes (default: one a core, or one on an "
                     "accelerator)")  # fmt: skip
    run.add_argument("--address", default="auto", metavar="HOST:PORT",
                     help="ray: the cluster (default: the one that this machine is a node "
                     "of)")  # fmt: skip
    run.add_argument("--resources", nargs="+", default=[], metavar="[SIZE:]KEY=VALUE",
                     help="ray: what a run takes: cpu, gpu, memory (bytes), tpu (a slice, as "
                     "v5p-128), or a resource of the cluster's own (default: cpu=1)")  # fmt: skip
    run.add_argument("--slurm", nargs="+", default=[], metavar="[SIZE:]KEY=VALUE",
                     help="slurm: parameters of sbatch as submitit names them: partition, account, "
                     "nodes, gpus_per_node, time in minutes (default: a day), ...")  # fmt: skip

    status = command(
        "status", "Show how far the runs of an experiment are.", "ladder status quickstart"
    )
    status.add_argument("directory", metavar="DIR", help="what ladder run took as --out")
    status.add_argument("--json", action="store_true", help="print JSON")

    train = command(
        "train", "Train one run, from wherever it stopped; --key value overrides its "
        "config.", "ladder train quickstart/66K-0.5xC --out run --optim.lr_peak 0.02",
    )  # fmt: skip
    train.add_argument("config", metavar="RUN", help="EXPERIMENT/RUN, or a config.json")
    train.add_argument("--out", required=True, metavar="DIR")
    processes(train)
    train.add_argument("--no-score", action="store_true", help="train only: its score is awaited")
