"""The grid on one machine: independent runs in worker processes, one thread each, longest first.

A manifest names the runs by the hash of their configs.  A run is done when its last checkpoint is
committed and measured; starting again takes up whatever is not.
"""

from __future__ import annotations

import concurrent.futures
import glob
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import rich.live
import rich.table

from fitting.table import InputError, write_atomically
from ladder_jax import compilation, tracking
from ladder_jax.config import RunConfig, config_hash
from ladder_jax.models import counts

# Without it, glibc gives a step's buffers back to the system and faults them in again at the next.
_MALLOC = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296"
_REFRESH_S = 0.5
_PLAIN_REFRESH_S = 30.0


def run_directory(out: Path, run: RunConfig) -> Path:
    """Where a run of the grid lives."""
    return out / "runs" / run.name


def claim_manifest(experiment: str, runs: Sequence[RunConfig], out: Path) -> dict[str, Any]:
    """Writes `manifest.json`, or checks that the directory holds these very runs; returns it.

    Raises:
        InputError: it holds others, or cannot be written.
    """
    path = out / "manifest.json"
    manifest = {"experiment": experiment, "runs": {run.name: config_hash(run) for run in runs}}
    if path.is_file():
        theirs = tracking.read_json(path)
        if theirs != manifest:
            key, _, _ = tracking.first_difference(theirs, manifest)
            raise InputError(f"{out} belongs to another config ({key} differs): use another --out")
        return manifest
    text = json.dumps(manifest, indent=2) + "\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
    return manifest


def default_workers() -> int:
    """One a CPU core; one in all where an accelerator would have to be shared."""
    accelerators = [*glob.glob("/dev/accel*"), *glob.glob("/dev/nvidia[0-9]*")]
    if accelerators and os.environ.get("JAX_PLATFORMS") != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def train_all(
    runs: Sequence[RunConfig],
    out: Path,
    cache: Path,
    workers: int,
    withheld: Collection[str] = (),
) -> None:
    """Trains and scores all runs that are not done, and shows one live table of them.

    Args:
        runs: of the grid.
        out: the experiment's directory.
        cache: of tokenizers and packed text.
        workers: processes.
        withheld: names of runs that are trained but not scored.

    Raises:
        InputError: a run's directory belongs to another config; or some runs failed, and the
            others were finished first.
    """
    for run in runs:
        tracking.check_directory(run, run_directory(out, run))
    todo = [
        run
        for run in runs
        if not (tracking.is_trained if run.name in withheld else tracking.is_done)(
            run, run_directory(out, run)
        )
    ]
    todo.sort(key=_cost, reverse=True)
    failures: dict[str, str] = {}
    os.environ.setdefault("GLIBC_TUNABLES", _MALLOC)  # read when a worker starts
    context = multiprocessing.get_context("spawn")
    cores = context.SimpleQueue()
    for i in range(workers):
        cores.put(i)
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker, initargs=(cores, os.getpid(), cache)
    )
    with pool:
        futures = {
            pool.submit(
                _train_one, run, run_directory(out, run), cache, run.name not in withheld
            ): run
            for run in todo
        }
        try:
            _watch(runs, out, futures, failures)
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if failures:
        name, reason = next(iter(failures.items()))
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise InputError(f"run {name} failed{more}: {reason}")


def progress(run: RunConfig, directory: Path) -> dict[str, Any]:
    """State of a run from its log: state, step, loss, tokens/s, epochs and ETA where known."""
    rows = tracking.read(directory)
    last = rows[-1] if rows else {}
    state = "running" if rows else "waiting"
    if tracking.is_trained(run, directory):
        state = "done" if tracking.is_done(run, directory) else "to score"
    left = (run.n_steps - last.get("step", 0)) * run.batch_tokens
    rate = last.get("tokens_per_s", 0.0)
    return {
        "run": run.name,
        "n_params": counts.n_params(run.model),
        "state": state,
        "step": last.get("step", 0),
        "n_steps": run.n_steps,
        "loss": last.get("loss"),
        "epoch": last.get("epoch"),
        "tokens_per_s": rate,
        "cpu_s": last.get("cpu_s", 0.0),
        "eta_s": left / rate if rate and state == "running" else None,
    }


def status_table(runs: Sequence[RunConfig], out: Path) -> rich.table.Table:
    """The grid as a table."""
    table = rich.table.Table(box=None, pad_edge=False)
    for name in ("run", "N", "state", "step", "loss", "epochs", "tokens/s", "CPU s", "ETA"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    for run in runs:
        p = progress(run, run_directory(out, run))
        table.add_row(
            p["run"],
            f"{p['n_params']:,}",
            p["state"],
            f"{p['step']}/{p['n_steps']}",
            "" if p["loss"] is None else f"{p['loss']:.3f}",
            "" if p["epoch"] is None else f"{p['epoch']:.2f}",
            f"{p['tokens_per_s']:,.0f}" if p["tokens_per_s"] else "",
            f"{p['cpu_s']:.0f}" if p["cpu_s"] else "",
            "" if p["eta_s"] is None else f"{p['eta_s']:.0f} s",
        )
    return table


def _cost(run: RunConfig) -> int:
    return counts.flops_per_token(run.model) * run.n_tokens


def _watch(
    runs: Sequence[RunConfig],
    out: Path,
    futures: dict[concurrent.futures.Future, RunConfig],
    failures: dict[str, str],
) -> None:
    """Waits for all futures, redrawing the table; on a plain stream it prints now and then."""
    with rich.live.Live(auto_refresh=False) as live:
        drawn, every = 0.0, _REFRESH_S if live.console.is_terminal else _PLAIN_REFRESH_S
        pending = set(futures)
        while pending:
            done, pending = concurrent.futures.wait(pending, timeout=_REFRESH_S)
            for future in done:
                try:
                    future.result()
                except BrokenProcessPool:
                    raise InputError(
                        "a worker died (out of memory?): run the command again, it resumes"
                    ) from None
                except InputError as e:
                    failures[futures[future].name] = str(e)
                except Exception as e:  # a defect in one run is no reason to lose the others
                    text = (str(e).strip().splitlines() or [""])[0]
                    failures[futures[future].name] = f"{type(e).__name__}: {text}"
            if time.monotonic() - drawn > every or not pending:
                drawn = time.monotonic()
                table = status_table(runs, out)
                if live.console.is_terminal:
                    live.update(table, refresh=True)
                else:
                    live.console.print(table)


def _begin_worker(cores: Any, parent: int, cache: Path) -> None:
    """One core and one thread for this process, and no life without its parent."""
    compilation.keep(cache)  # what one worker has compiled the next need not
    core = cores.get()
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[core % len(allowed)]})
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    os.environ["OMP_NUM_THREADS"] = "1"
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _train_one(run: RunConfig, directory: Path, cache: Path, score: bool) -> None:
    from ladder_jax.score import train_and_score
    from ladder_jax.train import train

    (train_and_score if score else train)(run, directory, cache, progress=False)
