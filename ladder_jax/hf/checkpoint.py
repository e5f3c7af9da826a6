"""Finds, identifies and writes OLMo 2 models in the format of Hugging Face.

A model is a directory: `config.json` (read by `hf.config`), weights in safetensors (by
`hf.weights`) and, as a rule, `tokenizer.json`.  Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
from huggingface_hub import errors
from safetensors import SafetensorError
from tokenizers import Tokenizer

from fitting.errors import InputError, first_line
from ladder_jax.config import ModelConfig
from ladder_jax.data.tokenizer import END_OF_TEXT
from ladder_jax.hf.config import CONFIG_FILE, to_config
from ladder_jax.hf.weights import (
    check_dtype,
    no_weights,
    shapes_of,
    write_params,
)
from ladder_jax.models.protocol import Params

TOKENIZER_FILE = "tokenizer.json"
_FETCHED = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "generation_config.json",
]
_HUB_NAME = r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?"
_PIECE = 2**22  # bytes that `fingerprint` reads at once


def locate(name: str) -> Path:
    """A model's directory: `name` itself if it is one, else a hub's `org/model[@revision]`.

    Fetched files stay in the cache of `huggingface_hub`, which needs no network to find them again.

    Raises:
        InputError: there is no such directory or model, or it cannot be fetched.
    """
    directory = Path(name).expanduser()
    if name and directory.is_dir():
        return directory
    if not re.fullmatch(_HUB_NAME, name):
        raise InputError(f"{name!r}: no such directory: give a directory or org/model[@revision]")
    repository, _, revision = name.partition("@")
    try:
        found = huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=_FETCHED
        )
        return Path(found)
    except errors.GatedRepoError:
        problem = "is gated: accept its terms on the hub, then log in with hf auth login"
    except errors.RepositoryNotFoundError:
        problem = "is neither a directory nor a model on the hub: give a directory or org/model"
    except errors.RevisionNotFoundError:
        problem = f"has no revision {revision!r}: name a branch, a tag or a commit"
    except errors.HFValidationError:
        problem = "cannot be a model of the hub: give a directory or org/model[@revision]"
    except errors.LocalEntryNotFoundError:
        problem = "is no directory, and the hub cannot be reached: give a directory"
    except Exception as e:  # the HTTP library's, which changes with huggingface_hub
        problem = f"cannot be fetched ({first_line(e)}): try again, or give a directory"
    raise InputError(f"{name} {problem}")


def tokenizer_file(directory: str | Path) -> Path | None:
    """The `tokenizer.json` beside a model, if there is one."""
    path = Path(directory) / TOKENIZER_FILE
    return path if path.is_file() else None


def fingerprint(directory: str | Path) -> str:
    """The identity of a model: SHA-256, in hexadecimal, of `config.json` and all weights.

    Raises:
        InputError: there is no config or no weights, or they cannot be read.
    """
    directory = Path(directory)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        no_weights(directory)
    total = hashlib.sha256()
    try:
        for path in (directory / CONFIG_FILE, *weights):
            with open(path, "rb") as file:
                total.update(f"{path.name} {path.stat().st_size} ".encode())
                while piece := file.read(_PIECE):
                    total.update(piece)
    except OSError as e:
        raise InputError(f"{e.filename or directory}: cannot be read: {e.strerror}") from None
    return total.hexdigest()


def write(
    directory: str | Path,
    model: ModelConfig,
    params: Params,
    tokenizer_file: Path | None = None,
    dtype: str = "float32",
    max_shard_bytes: float = 5e9,
) -> None:
    """Writes a directory that transformers 4 and 5 load, whole or not at all.

    Args:
        directory: must not exist, or be empty.
        model: the model of the parameters.
        params: in the structure of `Architecture.init_params`, all addressable by this process.
        tokenizer_file: a `tokenizer.json` to carry along.
        dtype: that of the weights on disk, `float32` or `bfloat16` (rounded to nearest).
        max_shard_bytes: a weights file holds no more, unless a single tensor does.

    Raises:
        InputError: the directory is in use or cannot be written, or tokenizer or parameters are
            not this model's.
    """
    check_dtype(dtype)
    check_vacant(directory)
    directory = Path(os.path.abspath(directory))
    _check_shapes(model, params, directory)
    end = None if tokenizer_file is None else _end_of_text(tokenizer_file, model)
    partial = directory.with_name(f".{directory.name}-{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        _write_json(partial / CONFIG_FILE, to_config(model, dtype, end))
        write_params(partial, params, dtype, max_shard_bytes)
        for path in partial.glob("*.safetensors"):  # safetensors makes them private
            shutil.copymode(partial / CONFIG_FILE, path)
        if tokenizer_file is not None:
            _carry_tokenizer(tokenizer_file, partial, model, end)
        partial.replace(directory)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{directory}: cannot be written: {first_line(e)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_vacant(directory: str | Path) -> None:
    """Checks that a directory does not exist, or is empty.

    Raises:
        InputError: it holds something.
    """
    if not str(directory) or Path(directory) == Path("."):
        raise InputError("`out` must name a directory of its own")
    try:
        used = os.path.lexists(directory) and any(Path(directory).iterdir())
    except OSError as e:
        raise InputError(f"{directory}: cannot be written: {e.strerror}: choose another") from None
    if used:
        raise InputError(f"{directory}: is not empty: choose another `out`")


def _check_shapes(model: ModelConfig, params: Params, directory: Path) -> None:
    expected = jax.tree.map(lambda x: x.shape, shapes_of(model))
    if jax.tree.map(lambda x: x.shape, params) != expected:
        raise InputError(f"{directory}: the parameters are not of the model to be written")


def _end_of_text(path: Path, model: ModelConfig) -> int | None:
    """The id of the end of text, if the tokenizer, which must be the model's, has one."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # a damaged file raises no narrower class
        raise InputError(f"{path}: cannot be read ({first_line(e)}): give another") from None
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= model.vocab_size:
        raise InputError(
            f"{path}: has ids up to {highest}, and the model's vocab_size is {model.vocab_size}: "
            "give the model's own"
        )
    return tokenizer.token_to_id(END_OF_TEXT)


def _carry_tokenizer(path: Path, directory: Path, model: ModelConfig, end: int | None) -> None:
    shutil.copyfile(path, directory / TOKENIZER_FILE)
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.seq_len,
        "model_input_names": ["input_ids", "attention_mask"],  # by default also token types
        "clean_up_tokenization_spaces": False,
    }
    known = {} if end is None else {"eos_token": END_OF_TEXT}
    _write_json(directory / "tokenizer_config.json", described | known)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
