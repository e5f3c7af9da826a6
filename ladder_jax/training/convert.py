"""Models of Hugging Face made into run directories, and checkpoints of ours into theirs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import draccus
import jax

from fitting.errors import InputError
from fitting.io import read_json
from ladder_jax import hf
from ladder_jax.config import RunConfig
from ladder_jax.training import restore, run_directory
from ladder_jax.training.checkpoint import Checkpoints
from ladder_jax.training.initialize import TrainState, abstract_state, state_of


class Exported(NamedTuple):
    """The run and step that were exported, and whether a tokenizer went along."""

    run: RunConfig
    step: int
    has_tokenizer: bool


class Imported(NamedTuple):
    """The imported run, whether its directory was there already, and whether it has a tokenizer."""

    run: RunConfig
    was_there: bool
    has_tokenizer: bool


def export_hf(
    directory: str | Path, out: str | Path, step: int | None = None, dtype: str = "float32"
) -> Exported:
    """Writes a checkpoint of ours as a directory that transformers loads.

    Args:
        directory: of the run.
        out: must not exist, or be empty.
        step: of the checkpoint; None for the newest.
        dtype: of the weights on disk, `float32` or `bfloat16`.

    Raises:
        InputError: there is no such checkpoint, it cannot be read, or `out` is in use.
    """
    directory, out = Path(directory), Path(out)
    run = restore.read_config(directory)
    hf.check_dtype(dtype)
    hf.check_vacant(out)
    step = restore.saved_steps(directory)[-1] if step is None else step
    (found,) = restore.restore(run, directory, [step], restore.host_mesh())
    tokenizer = restore.run_tokenizer(run, directory)
    restore.check_text(directory, found, tokenizer)
    hf.write(out, run.model, found.params, tokenizer.file, dtype)
    return Exported(run, step, tokenizer.file is not None)


def import_hf(name: str, out: str | Path, n_tokens: float) -> Imported:
    """Makes a run directory of a model of Hugging Face, with its weights as those of one step.

    Args:
        name: a directory, or a hub's `org/model[@revision]`.
        out: must not exist, be empty, or hold the same model already.
        n_tokens: tokens that the model was trained on.

    Raises:
        InputError: the model cannot be read, or `out` holds something else.
    """
    out, source = Path(out), hf.locate(name)
    run = _run_of(name, source, n_tokens)
    origin = {"hf": name, "n_tokens": int(n_tokens), "weights": hf.fingerprint(source)}
    if run_directory.check_directory(run, out):
        _check_origin(origin, out)
        return Imported(run, True, hf.tokenizer_file(out) is not None)
    hf.check_vacant(out)
    final = Path(os.path.abspath(out))
    partial = final.with_name(f".{final.name}-{uuid.uuid4().hex}")
    try:
        _fill(run, source, origin, partial)
        partial.replace(final)
    except OSError as e:
        raise InputError(f"{out}: cannot be written: {e.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Imported(run, False, hf.tokenizer_file(out) is not None)


def _run_of(name: str, source: Path, n_tokens: float) -> RunConfig:
    """The config of an imported run: its tokens are those of a single step."""
    model = hf.read_config(source)
    n_seqs = round(n_tokens / model.seq_len)
    if n_seqs < 1:
        raise InputError(
            f"`n_tokens` is {n_tokens}: give the tokens that the model was trained on, at least "
            f"one sequence of {model.seq_len}"
        )
    local = Path(name).expanduser().is_dir()
    label = source.resolve().name if local else name.split("/", 1)[1].replace("/", "-")
    return RunConfig(name=label, n_steps=1, batch_seqs=n_seqs, model=model)


def _check_origin(origin: dict[str, Any], out: Path) -> None:
    """Checks that a directory of the same config also holds the same weights."""
    path = out / restore.IMPORTED_FILE
    if not path.is_file():
        raise InputError(f"{out}: holds a run that was not imported: choose another `out`")
    if read_json(path).get("weights") != origin["weights"]:
        raise InputError(f"{out}: holds other weights of this name: choose another `out`")


def _fill(run: RunConfig, source: Path, origin: dict[str, Any], directory: Path) -> None:
    """Fills a directory so that it is a finished run's."""
    directory.mkdir(parents=True)
    meta = {
        "config": draccus.encode(run),
        "data": {"next_batch": 1, "fingerprint": "imported"},
    }
    with contextlib.closing(Checkpoints(directory / "checkpoints")) as checkpoints:
        checkpoints.save(1, _state(run, source), meta)
    tokenizer = hf.tokenizer_file(source)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, directory / tokenizer.name)
    text = json.dumps(origin, indent=2) + "\n"
    (directory / restore.IMPORTED_FILE).write_text(text, encoding="utf-8")
    run_directory.claim_directory(run, directory)


def _state(run: RunConfig, source: Path) -> TrainState:
    """A state after one step: weights as they are read, moments as they begin."""
    mesh = restore.host_mesh()
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(run, mesh).params)
    params = hf.read_params(source, run.model, shardings=shardings)
    return state_of(run, params, mesh, step=1)
