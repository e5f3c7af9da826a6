"""Parameters, steps and tokenizer of a run's directory, read back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fitting.errors import InputError
from ladder_jax import hf, parallel
from ladder_jax.config import MeshConfig, RunConfig
from ladder_jax.config_text import load_json
from ladder_jax.data.pipeline import prepare
from ladder_jax.runtime.paths import cache_dir
from ladder_jax.training.checkpoint import Checkpoints
from ladder_jax.training.initialize import abstract_state

IMPORTED_FILE = "imported.json"  # in a run directory: where imported weights come from


class Restored(NamedTuple):
    """Parameters of one step.

    Attributes:
        params: in the structure of the model's parameters.
        step: optimiser steps that were taken.
        text: fingerprint of the text that the run was trained on.
    """

    params: Any
    step: int
    text: str


class RunTokenizer(NamedTuple):
    """The tokenizer file of a run, if there is one, and the fingerprint of the text behind it."""

    file: Path | None
    text: str | None


def read_config(directory: Path) -> RunConfig:
    """The config of a run's directory."""
    return load_json(RunConfig, directory / "config.json")


def saved_steps(directory: Path) -> list[int]:
    """Steps of the committed checkpoints of a run's directory, oldest first.

    Raises:
        InputError: there is none.
    """
    steps: list[int] = []
    if (directory / "checkpoints").is_dir():
        with _opened(directory) as checkpoints:
            steps = checkpoints.steps()
    if not steps:
        raise InputError(f"{directory}: holds no checkpoint yet: train the run to one")
    return steps


def check_steps(directory: Path, steps: list[int]) -> None:
    """Checks that there is a checkpoint of every step.

    Raises:
        InputError: a step has no checkpoint.
    """
    known = saved_steps(directory)
    for step in steps:
        if step not in known:
            raise InputError(f"{directory}: no checkpoint of step {step}; there are {known}")


def restore(run: RunConfig, directory: Path, steps: list[int], mesh: Any) -> Iterator[Restored]:
    """The parameters of some steps, one after the other.

    Args:
        run: of the directory.
        directory: of the run.
        steps: committed ones, see `saved_steps`.
        mesh: on which the parameters are placed.

    Raises:
        InputError: there is no checkpoint of a step, or it cannot be read.
    """
    check_steps(directory, steps)
    with _opened(directory) as checkpoints:
        for step in steps:
            state, meta = checkpoints.restore(abstract_state(run, mesh), step)
            yield Restored(state.params, step, meta["data"]["fingerprint"])


def run_tokenizer(run: RunConfig, directory: Path) -> RunTokenizer:
    """The tokenizer of a run: its own if it was imported, else that of its packed text."""
    if (directory / IMPORTED_FILE).is_file():  # its config names no text
        return RunTokenizer(hf.tokenizer_file(directory), None)
    packed = prepare(run.data, run.model.seq_len, cache_dir())
    return RunTokenizer(hf.tokenizer_file(packed.directory), packed.info.fingerprint)


def check_text(directory: Path, restored: Restored, tokenizer: RunTokenizer) -> None:
    """Checks that a checkpoint was trained on the text that the tokenizer belongs to.

    Raises:
        InputError: the run's config gives other text now.
    """
    if tokenizer.text not in (None, restored.text):
        raise InputError(
            f"{directory}: data.source gives other text now than this run was trained on, so its "
            "tokenizer is lost: put the text back, or give `tokenizer`"
        )


def host_mesh() -> Any:
    """A mesh of one device: the host's, whose memory holds what an accelerator's may not."""
    try:
        devices = jax.local_devices(backend="cpu")
    except RuntimeError:  # JAX was told to use no other platform than the accelerator's
        devices = jax.local_devices()
    return parallel.make_mesh(MeshConfig(), devices[:1])


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[Checkpoints]:
    with contextlib.closing(Checkpoints(directory / "checkpoints")) as checkpoints:
        yield checkpoints
