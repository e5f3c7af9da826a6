"""Trains quickstart's grid on three Ray nodes, one of which is killed, and with local workers.

Command:  python -m experiments.quickstart.cluster --out cluster [--multiples .02 .03 .05]
Hardware: two CPU cores, extra `launch`.  Time: some ten minutes with these multiples.
Expected: README.md, "On a cluster".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.quickstart.config import LADDER
from fitting.errors import InputError
from ladder_jax import launch
from ladder_jax.config import RunConfig
from ladder_jax.launch import attempts
from ladder_jax.measurements import own_runs
from ladder_jax.runtime import compilation
from ladder_jax.runtime.paths import cache_dir

_COMMAND = "python -m experiments.quickstart.cluster"
_DUE = 0.3  # share of a run that is done when its node is killed


def main(arguments: list[str] | None = None) -> None:
    """Trains and scores the grid twice; prints a JSON line for each run, and whether both agree."""
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {_COMMAND} --out cluster --multiples .02 .03 .05",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="directory of both; an interrupted command can be started again",
    )
    parser.add_argument("--multiples", nargs="+", type=float, metavar="X",
                        help="of 20 tokens a parameter, instead of quickstart's")  # fmt: skip
    args = parser.parse_args(arguments)
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        raise InputError("Ray is not installed: pip install 'ladder_jax[launch]'") from None
    compilation.keep(cache_dir())
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # inherited by its nodes
    ladder = replace(LADDER, multiples=tuple(args.multiples)) if args.multiples else LADDER
    runs, out = ladder.runs(), Path(args.out)
    for where in ("ray", "local"):
        launch.claim_manifest("quickstart", runs, out / where)
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(**node)
        seconds, killed = _on_ray(runs, out / "ray", cluster)
    finally:
        cluster.shutdown()
    launch.train_all(runs, out / "local", cache_dir(), workers=2)
    _report(runs, out / "ray")
    print(json.dumps({"killed": killed, "ray_wall_s": round(seconds)} | _compared(out)))


def _on_ray(runs: list[RunConfig], out: Path, cluster: Any) -> tuple[float, str]:
    """Wall seconds of the grid on the nodes, and the run whose node was killed (empty: none)."""
    from ladder_jax.launch.on_ray import Ray

    killed: list[str] = []

    def kill() -> None:
        while not killed:
            for run in runs:
                directory = launch.run_directory(out, run)
                due = _DUE * run.n_steps < launch.progress(run, directory)["step"] < run.n_steps
                rows = [row for row in attempts.read(directory) if "node" in row]
                for node in cluster.list_all_nodes() if due and rows else []:
                    name = rows[-1]["node"].rpartition("/")[2]
                    if node is not cluster.head_node and node.node_id.startswith(name):
                        cluster.remove_node(node, allow_graceful=False)
                        killed.append(run.name)
                        return
            time.sleep(0.5)

    threading.Thread(target=kill, daemon=True).start()
    begun = time.monotonic()
    with Ray(out, cluster.address) as executor:
        launch.execute(runs, out, executor)
    return time.monotonic() - begun, "".join(killed)


def _report(runs: list[RunConfig], out: Path) -> None:
    for run in runs:
        rows = attempts.read(launch.run_directory(out, run))
        codes = [row["code"] for row in rows if "code" in row]
        print(json.dumps({"run": run.name, "ended": codes, "finished": codes.count(0)}))


def _compared(out: Path) -> dict[str, Any]:
    """Whether the two tables of measurements are equal, and their greatest difference."""
    ray, local = (own_runs.from_runs(out / where) for where in ("ray", "local"))
    keys = ["run", "task", "metric", "step"]
    both = ray.merge(local, on=keys, how="outer", suffixes=("", "_local"), indicator=True)
    apart = (both["value"] - both["value_local"]).abs().max()
    return {
        "rows": len(both),
        "unmatched": int((both["_merge"] != "both").sum()),
        "equal": bool(ray.equals(local)),
        "max_diff": float(apart),
    }


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"{_COMMAND}: {e}")
