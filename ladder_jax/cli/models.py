"""Models of Hugging Face to and from run directories: import-hf, export-hf."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from fitting.errors import InputError

_SOURCE_FILE = "imported.json"  # in a run directory: where its weights come from


def export_hf(args: argparse.Namespace) -> None:
    """Writes a checkpoint of ours as a directory that transformers loads.

    Reads `checkpoint` (a run's directory), `step` (None: the newest), `out` and `dtype`.
    """
    from ladder_jax import hf
    from ladder_jax.config import RunConfig
    from ladder_jax.config_text import load_json
    from ladder_jax.models import counts

    directory, out = Path(args.checkpoint), Path(args.out)
    run = load_json(RunConfig, directory / "config.json")
    hf.check_dtype(args.dtype)
    hf.check_vacant(out)
    params, step, trained_on = _restore(run, directory, args.step)
    tokenizer = _tokenizer_of(run, directory, trained_on)
    hf.write(out, run.model, params, tokenizer, args.dtype)
    print(
        f"{out}: {run.name} at step {step}, {counts.n_params_total(run.model):,} parameters in "
        f"{args.dtype}, {'with' if tokenizer else 'without'} a tokenizer; transformers loads it"
    )


def import_hf(args: argparse.Namespace) -> None:
    """Makes a run directory of a model of Hugging Face: one step, at which it is what it is.

    Reads `hf` (a directory or org/model[@revision]), `out` and `n_tokens` (trained on).
    """
    from ladder_jax import hf
    from ladder_jax.models import counts
    from ladder_jax.training import run_directory

    out = Path(args.out)
    source = hf.locate(args.hf)
    run = _run_of(args.hf, source, args.n_tokens)
    origin = {"hf": args.hf, "n_tokens": int(args.n_tokens), "weights": hf.fingerprint(source)}
    if run_directory.check_directory(run, out):
        _check_origin(origin, out)
        print(f"{out}: holds {run.name} already")
        return
    hf.check_vacant(out)
    final = Path(os.path.abspath(out))
    partial = final.with_name(f".{final.name}-{uuid.uuid4().hex}")
    try:
        _make_run(run, source, origin, partial)
        partial.replace(final)
    except OSError as e:
        raise InputError(f"{out}: cannot be written: {e.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(
        f"{out}: {run.name}, {counts.n_params_total(run.model):,} parameters trained on "
        f"{run.n_tokens:,} tokens, {'with' if hf.tokenizer_file(out) else 'without'} a tokenizer"
    )


def _run_of(name: str, source: Path, n_tokens: float) -> Any:
    """The config of an imported run: its tokens are those of a single step."""
    from ladder_jax import hf
    from ladder_jax.config import RunConfig

    model = hf.read_config(source)
    n_seqs = round(n_tokens / model.seq_len)
    if n_seqs < 1:
        raise InputError(
            f"--n-tokens is {n_tokens}: give what the model was trained on, at least one sequence "
            f"of {model.seq_len}"
        )
    local = Path(name).expanduser().is_dir()
    label = source.resolve().name if local else name.split("/", 1)[1].replace("/", "-")
    return RunConfig(name=label, n_steps=1, batch_seqs=n_seqs, model=model)


def _check_origin(origin: dict[str, Any], out: Path) -> None:
    """Checks that a directory of the same config also holds the same weights."""
    from fitting import io

    path = out / _SOURCE_FILE
    if not path.is_file():
        raise InputError(f"{out}: holds a run that was not imported: choose another --out")
    if io.read_json(path).get("weights") != origin["weights"]:
        raise InputError(f"{out}: holds other weights of this name: choose another --out")


def _make_run(run: Any, source: Path, origin: dict[str, Any], directory: Path) -> None:
    """Fills a directory that `tracking` and `Checkpoints` take for a finished run's."""
    import draccus

    from ladder_jax import hf
    from ladder_jax.training import run_directory
    from ladder_jax.training.checkpoint import Checkpoints

    directory.mkdir(parents=True)
    checkpoints = Checkpoints(directory / "checkpoints")
    try:
        meta = {
            "config": draccus.encode(run),
            "data": {"next_batch": 1, "fingerprint": "imported"},
        }
        checkpoints.save(1, _state(run, source), meta)
    finally:
        checkpoints.close()
    tokenizer = hf.tokenizer_file(source)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, directory / tokenizer.name)
    text = json.dumps(origin, indent=2) + "\n"
    (directory / _SOURCE_FILE).write_text(text, encoding="utf-8")
    run_directory.claim_directory(run, directory)


def _state(run: Any, source: Path) -> Any:
    """A `TrainState` after one step: weights as they are read, moments as they begin."""
    import jax

    from ladder_jax import hf
    from ladder_jax.training.initialize import abstract_state, state_of

    mesh = _host_mesh()
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(run, mesh).params)
    params = hf.read_params(source, run.model, shardings=shardings)
    return state_of(run, params, mesh, step=1)


def _restore(run: Any, directory: Path, step: int | None) -> tuple[Any, int, str]:
    """Parameters of a checkpoint, its step, and the fingerprint of what it was trained on."""
    from ladder_jax.training.checkpoint import Checkpoints
    from ladder_jax.training.initialize import abstract_state

    saved = directory / "checkpoints"
    checkpoints = Checkpoints(saved) if saved.is_dir() else None
    try:
        steps = checkpoints.steps() if checkpoints else []
        if checkpoints is None or not steps:
            raise InputError(f"{directory}: holds no checkpoint yet: train it to one")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise InputError(
                f"{directory}: has no checkpoint of step {step}: give one of "
                f"{', '.join(map(str, steps))}"
            )
        state, meta = checkpoints.restore(abstract_state(run, _host_mesh()), step)
    finally:
        if checkpoints:
            checkpoints.close()
    return state.params, step, meta["data"]["fingerprint"]


def _host_mesh() -> Any:
    """One device: the host's, whose memory holds what an accelerator's may not."""
    import jax

    from ladder_jax import parallel
    from ladder_jax.config import MeshConfig

    try:
        devices = jax.local_devices(backend="cpu")
    except RuntimeError:  # JAX was told to use no other than the accelerator
        devices = jax.local_devices()
    return parallel.make_mesh(MeshConfig(), devices[:1])


def _tokenizer_of(run: Any, directory: Path, trained_on: str) -> Path | None:
    """The tokenizer file of a run: its own if it was imported, else that of its packed text."""
    from ladder_jax import hf
    from ladder_jax.data.pipeline import prepare
    from ladder_jax.runtime.paths import cache_dir

    if (directory / _SOURCE_FILE).is_file():
        return hf.tokenizer_file(directory)
    packed = prepare(run.data, run.model.seq_len, cache_dir())
    if packed.info.fingerprint != trained_on:
        raise InputError(
            f"{directory}: data.source gives other text now than this run was trained on, so its "
            "tokenizer is lost: put the text back"
        )
    return hf.tokenizer_file(packed.directory)
