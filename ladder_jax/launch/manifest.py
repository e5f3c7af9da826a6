"""An experiment's directory: the manifest of its runs, and the lock of the process that uses it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fitting.errors import InputError
from fitting.io import read_json, write_atomically
from ladder_jax.config import RunConfig
from ladder_jax.config_text import config_hash, difference, load_json, to_json
from ladder_jax.runtime import locks

FILE = "manifest.json"


def run_directory(out: Path, run: RunConfig) -> Path:
    """The directory of a run of the grid."""
    return out / "runs" / run.name


def claim_manifest(experiment: str, runs: Sequence[RunConfig], out: Path) -> dict[str, Any]:
    """Writes `manifest.json`, or checks that the directory belongs to this experiment.

    An experiment may grow: new runs are added to the manifest, existing ones are kept.  The configs
    of the runs are written beside it, so that any machine can start them.

    Returns:
        The manifest: `experiment`, and `runs`, name -> hash of its config.

    Raises:
        InputError: the directory belongs to another experiment, has a run of another config or one
            that the experiment lacks, or cannot be written.
    """
    path = out / FILE
    manifest = {"experiment": experiment, "runs": {run.name: config_hash(run) for run in runs}}
    if path.is_file():
        _check_grown(_read(out), manifest, runs, out)
    for run in runs:
        _write(config_path(out, run), to_json(run))
    _write(path, json.dumps(manifest, indent=2) + "\n")
    return manifest


def new_runs(runs: Sequence[RunConfig], out: Path) -> list[str]:
    """Names of the runs that the manifest of a directory lacks; empty if there is no manifest."""
    if not (out / FILE).is_file():
        return []
    known = _read(out)["runs"]
    return [run.name for run in runs if run.name not in known]


def _check_grown(
    held: dict[str, Any], manifest: dict[str, Any], runs: Sequence[RunConfig], out: Path
) -> None:
    """Checks that the experiment has every run of an existing manifest, with the same config."""
    advice = "use another `out`"
    if held["experiment"] != manifest["experiment"]:
        raise InputError(f"{out} belongs to experiment {held['experiment']!r}: {advice}")
    lost = [name for name in held["runs"] if name not in manifest["runs"]]
    if lost:
        raise InputError(
            f"{out} belongs to another config (run {lost[0]!r} is there, and not in the "
            f"experiment): restore the run, or {advice}"
        )
    for run in runs:
        stored = config_path(out, run)
        if held["runs"].get(run.name, manifest["runs"][run.name]) == manifest["runs"][run.name]:
            continue
        found = difference(load_json(RunConfig, stored), run)
        if found is not None:  # else only the hash differs: an older version computed it
            raise InputError(
                f"{out} belongs to another config ({found.key} of run {run.name!r} is "
                f"{found.there!r} there, {found.here!r} here): {advice}"
            )


def config_path(out: Path, run: RunConfig) -> Path:
    """The file of a run's config, from which any machine can start it."""
    return _config_path(out, run.name)


def _config_path(out: Path, name: str) -> Path:
    return out / "configs" / f"{name}.json"


def read_manifest(out: Path) -> tuple[str, list[RunConfig]]:
    """The name of a directory's experiment, and its runs.

    Raises:
        InputError: the directory has no manifest, or it is damaged.
    """
    if not (out / FILE).is_file():
        raise InputError(f"{out}: holds no experiment ({FILE} is not there); ladder run writes it")
    manifest = _read(out)
    paths = [_config_path(out, name) for name in manifest["runs"]]
    return manifest["experiment"], [load_json(RunConfig, path) for path in paths]


def _read(out: Path) -> dict[str, Any]:
    manifest = read_json(out / FILE)
    whole = isinstance(manifest, dict) and {"experiment", "runs"} <= set(manifest)
    if not whole or not isinstance(manifest["runs"], dict):
        raise InputError(f"{out / FILE}: is no manifest; remove it, and ladder run writes it again")
    return manifest


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """Locks the directory, so that no second `ladder run` uses it.

    Raises:
        InputError: another process has locked it, or the directory cannot be written.
    """
    taken = f"another ladder run is at work there; ladder status {out} shows it"
    with locks.held(out / locks.FILE, taken):
        yield
