"""An experiment's directory: which runs it holds, and who is at work in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fitting import io
from fitting.errors import InputError
from fitting.io import write_atomically
from ladder_jax import config_text
from ladder_jax.config import RunConfig
from ladder_jax.config_text import config_hash, load_json, to_json
from ladder_jax.runtime import locks

FILE = "manifest.json"


def run_directory(out: Path, run: RunConfig) -> Path:
    """Where a run of the grid lives."""
    return out / "runs" / run.name


def claim_manifest(experiment: str, runs: Sequence[RunConfig], out: Path) -> dict[str, Any]:
    """Writes `manifest.json`, or checks that the directory holds these very runs; returns it.

    The runs' configs are written beside it, as this machine and any other may start them.

    Raises:
        InputError: it holds others, or cannot be written.
    """
    path = out / FILE
    manifest = {"experiment": experiment, "runs": {run.name: config_hash(run) for run in runs}}
    if path.is_file():
        theirs = io.read_json(path)
        if theirs != manifest:
            key, _, _ = config_text.first_difference(theirs, manifest)
            raise InputError(f"{out} belongs to another config ({key} differs): use another --out")
    for run in runs:
        _write(config_path(out, run), to_json(run))
    _write(path, json.dumps(manifest, indent=2) + "\n")
    return manifest


def config_path(out: Path, run: RunConfig) -> Path:
    """Where a run's config is kept for those who start it."""
    return out / "configs" / f"{run.name}.json"


def read_manifest(out: Path) -> tuple[str, list[RunConfig]]:
    """The experiment of a directory, and its runs.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if not (out / FILE).is_file():
        raise InputError(f"{out}: holds no experiment ({FILE} is not there); ladder run writes it")
    manifest = io.read_json(out / FILE)
    if not isinstance(manifest, dict) or not {"experiment", "runs"} <= set(manifest):
        raise InputError(f"{out / FILE}: is no manifest; remove it to have it made again")
    paths = [out / "configs" / f"{name}.json" for name in manifest["runs"]]
    return manifest["experiment"], [load_json(RunConfig, path) for path in paths]


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """Keeps a second `ladder run` out of the directory.

    Raises:
        InputError: there is one, or the directory cannot be written.
    """
    taken = f"another ladder run is at work there; ladder status {out} shows it"
    with locks.held(out / locks.FILE, taken):
        yield
