"""The progress of the runs of a grid, read from their directories."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table
import rich.text

from ladder_jax.config import RunConfig
from ladder_jax.launch import attempts
from ladder_jax.launch.manifest import run_directory
from ladder_jax.models import counts
from ladder_jax.training import metrics_log
from ladder_jax.training.run_directory import is_done, is_trained

_TAIL_BYTES = 1 << 16
_PLAIN_WIDTH = 140

_COLUMNS = {
    "run": lambda p: p["run"],
    "N": lambda p: f"{p['n_params']:,}",
    "state": lambda p: p["state"],
    "step": lambda p: f"{p['step']}/{p['n_steps']}",
    "loss": lambda p: _shown(p["loss"], "{:.3f}"),
    "epochs": lambda p: _shown(p["epoch"], "{:.2f}"),
    "tokens/s": lambda p: _shown(p["tokens_per_s"], "{:,.0f}"),
    "MFU": lambda p: _shown(p["mfu"], "{:.1%}"),
    "CPU s": lambda p: _shown(p["cpu_s"], "{:.0f}"),
    "ETA": lambda p: _duration(p["eta_s"]),
    "on": lambda p: p["node"] or "",
}
_OPTIONAL = {"MFU": "mfu", "on": "node"}  # columns that are left out where no run has them


def progress(run: RunConfig, directory: Path) -> dict[str, Any]:
    """The progress of a run: state, step, loss, tokens/s, MFU, epochs and ETA where known.

    `state` is `waiting`, `running`, `interrupted` (no process works on it any more), `to score`,
    `failed` (`reason` says why) or `done`; `node` is the machine of its last attempt.
    """
    rows, last = attempts.read(directory), _last_row(directory)
    state = _state(run, directory, rows, last)
    left = (run.n_steps - last.get("step", 0)) * run.batch_tokens
    speed = last.get("tokens_per_s")
    begun = [row for row in rows if "began" in row]
    return {
        "run": run.name,
        "n_params": counts.n_params(run.model),
        "state": state,
        "step": last.get("step", 0),
        "n_steps": run.n_steps,
        "loss": last.get("loss"),
        "epoch": last.get("epoch"),
        "tokens_per_s": speed,
        "mfu": last.get("mfu"),
        "cpu_s": last.get("cpu_s"),
        "eta_s": left / speed if speed and state == "running" else None,
        "node": begun[-1].get("node") if begun else None,
        "reason": attempts.failure(rows) if state == "failed" else None,
    }


def console() -> rich.console.Console:
    """The console for tables; lines may exceed 80 characters if output is no terminal."""
    made = rich.console.Console()
    return made if made.is_terminal else rich.console.Console(width=_PLAIN_WIDTH)


def last_step(directory: Path) -> int:
    """The last step that a run has logged."""
    return _last_row(directory).get("step", 0)


def status_table(runs: Sequence[RunConfig], out: Path) -> rich.console.Group:
    """A table of the grid, and below it the reasons of failed runs."""
    all_of = [progress(run, run_directory(out, run)) for run in runs]
    here = attempts.this_node()
    for p in all_of:
        p["node"] = None if p["node"] == here else p["node"]
    left_out = {c for c, key in _OPTIONAL.items() if all(p[key] is None for p in all_of)}
    columns = {name: show for name, show in _COLUMNS.items() if name not in left_out}
    reasons = [f"{p['run']} failed: {p['reason']}" for p in all_of if p["reason"]]
    table = rich.table.Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("run", "state", "on") else "right")
    for p in all_of:
        table.add_row(*(show(p) for show in columns.values()))
    return rich.console.Group(table, *map(rich.text.Text, reasons))


def _state(
    run: RunConfig, directory: Path, rows: list[dict[str, Any]], last: dict[str, Any]
) -> str:
    if is_done(run, directory):
        return "done"
    alive = attempts.is_alive(directory, rows)
    if not alive and attempts.failure(rows) is not None:
        return "failed"
    if is_trained(run, directory):
        return "to score"
    if alive:
        return "running"
    begun = last or any("began" in row for row in rows)
    return "interrupted" if begun else "waiting"


def _last_row(directory: Path) -> dict[str, Any]:
    """The last complete row of a run's log; reads only the end of the file, which may be long."""
    path = directory / metrics_log.METRICS_FILE
    if not path.is_file():
        return {}
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            return row
    return {}


def _shown(value: float | None, form: str) -> str:
    return form.format(value) if value else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
