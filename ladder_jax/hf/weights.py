"""Weights of `Olmo2ForCausalLM` in safetensors, to and from the decoder's parameters.

The files hold a tensor a layer, output by input; the decoder stacks its layers, input by output.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fitting.errors import InputError, first_line
from ladder_jax.config import ModelConfig
from ladder_jax.hf.config import CONFIG_FILE, is_tied
from ladder_jax.models.protocol import Params
from ladder_jax.models.registry import architecture

DTYPES = ("float32", "bfloat16")  # of parameters, and of files that are written
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_ON_DISK = ("F32", "BF16", "F16")
_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_TOP = {"embed": _EMBED, "norm.scale": "model.norm.weight", "head": _HEAD}  # ours: theirs
_LAYER = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "attention.query_norm.scale": "self_attn.q_norm",
    "attention.key_norm.scale": "self_attn.k_norm",
    "attention_norm.scale": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "mlp_norm.scale": "post_feedforward_layernorm",
}


@functools.cache  # tracing takes a tenth of a second
def shapes_of(model: ModelConfig) -> Params:
    """Shapes and dtypes of a model's parameters."""
    return architecture(model).abstract_params(model)


class _Tensor(NamedTuple):
    """A tensor of the files, and its place in our structure."""

    name: str
    shape: tuple[int, ...]
    layer: int | None
    transposed: bool


def read_params(
    directory: str | Path, model: ModelConfig, dtype: str = "float32", shardings: Any = None
) -> Params:
    """The weights of an `Olmo2ForCausalLM`, in the structure of `Architecture.init_params`.

    Every tensor is checked before any is read.  The memory needed is that of the result and of one
    tensor more.
    A tied output head becomes a copy of the input table.

    Args:
        directory: holds safetensors of float32, bfloat16 or float16, one file or an index.
        model: as `read_config` gives it.
        dtype: that of the result, `float32` or `bfloat16`.
        shardings: a sharding for every parameter, in the same structure; every process then reads
            the files and keeps its own shards.  Without, the result is numpy arrays.

    Raises:
        InputError: a file is missing or damaged, or its tensors are not this model's.
    """
    check_dtype(dtype)
    directory, tied = Path(directory), is_tied(directory)
    with contextlib.ExitStack() as opened:
        home = {}  # tensor -> its file
        for path in _files(directory):
            file = _open(path, opened)
            home |= {name: (path, file) for name in file.keys()}  # noqa: SIM118 (no mapping)
        _check_tensors(home, model, tied, directory)

        def read(name: str) -> np.ndarray:
            name = name if name in home else _EMBED  # a tied head
            path, file = home[name]
            try:
                return file.get_tensor(name)
            except (OSError, SafetensorError) as e:
                _damaged(path, e)

        if tied and _HEAD in home and not np.array_equal(read(_HEAD), read(_EMBED)):
            raise InputError(
                f"{directory / CONFIG_FILE}: tie_word_embeddings is true, but {_HEAD} differs from "
                f"{_EMBED}: set it to false if both are meant"
            )
        return assemble(read, model, dtype, shardings)


def assemble(
    read: Callable[[str], np.ndarray],
    model: ModelConfig,
    dtype: str = "float32",
    shardings: Any = None,
) -> Params:
    """Our parameters from tensors under their names: matrices transposed, layers stacked.

    Args:
        read: gives a tensor by its name in `Olmo2ForCausalLM`.
        model: the model of the tensors.
        dtype: that of the result.
        shardings: see `read_params`.
    """

    def leaf(path: Any, ours: Any, sharding: Any = None) -> Any:
        whole = np.empty(ours.shape, jnp.dtype(dtype))
        for tensor in _theirs(path, ours.shape):
            place = whole[... if tensor.layer is None else tensor.layer]
            place[...] = read(tensor.name).T if tensor.transposed else read(tensor.name)
        if sharding is None:
            return whole
        return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)

    given = () if shardings is None else (shardings,)
    return jax.tree_util.tree_map_with_path(leaf, shapes_of(model), *given)


def write_params(directory: Path, params: Params, dtype: str, max_shard_bytes: float) -> None:
    """Writes safetensors, one file or several with an index, in the order of the layers.

    Args:
        directory: exists.
        params: in the structure of `Architecture.init_params`.
        dtype: that of the tensors on disk.
        max_shard_bytes: a file holds no more, unless a single tensor does.
    """
    entries = [
        (tensor, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        for tensor in _theirs(path, leaf.shape)
    ]
    entries.sort(key=lambda entry: -1 if entry[0].layer is None else entry[0].layer)
    width = jnp.dtype(dtype).itemsize
    sizes = [width * math.prod(tensor.shape) for tensor, _ in entries]
    shards = _split(entries, sizes, max_shard_bytes)
    home = {}
    for k, shard in enumerate(shards, start=1):
        name = f"model-{k:05d}-of-{len(shards):05d}.safetensors"
        name = WEIGHTS_FILE if len(shards) == 1 else name
        tensors = {tensor.name: _take(tensor, leaf, dtype) for tensor, leaf in shard}
        save_file(tensors, directory / name, metadata={"format": "pt"})
        home |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": home}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (directory / INDEX_FILE).write_text(text, encoding="utf-8")


def check_dtype(dtype: str) -> None:
    """Checks that a dtype's name is one of `DTYPES`.

    Raises:
        InputError: it is not.
    """
    if dtype not in DTYPES:
        raise InputError(f"`dtype` is {dtype!r}: one of {', '.join(DTYPES)} is needed")


def _theirs(path: Any, shape: tuple[int, ...]) -> list[_Tensor]:
    """The tensors of the files that make up one of our arrays, from its path and shape."""
    ours = jax.tree_util.keystr(path, simple=True, separator=".")
    transposed = ours != "embed" and not ours.endswith("scale")
    order = -1 if transposed else 1
    if ours in _TOP:
        return [_Tensor(_TOP[ours], shape[::order], None, transposed)]
    name = _LAYER[ours.removeprefix("layers.")]
    return [
        _Tensor(f"model.layers.{i}.{name}.weight", shape[1:][::order], i, transposed)
        for i in range(shape[0])
    ]


def _take(tensor: _Tensor, leaf: Any, dtype: str) -> np.ndarray:
    ours = np.asarray(leaf if tensor.layer is None else leaf[tensor.layer])
    return np.ascontiguousarray(ours.T if tensor.transposed else ours, jnp.dtype(dtype))


def _split(entries: list[Any], sizes: list[int], most: float) -> list[list[Any]]:
    """Cuts a list into runs whose sizes do not sum to more than `most`, if one entry does not."""
    runs, used = [], math.inf
    for entry, size in zip(entries, sizes, strict=True):
        if used + size > most:
            runs.append([])
            used = 0
        runs[-1].append(entry)
        used += size
    return runs


def _files(directory: Path) -> list[Path]:
    """The safetensors files of a model; one file is preferred to an index, as by transformers."""
    if (directory / WEIGHTS_FILE).is_file():
        return [directory / WEIGHTS_FILE]
    index = directory / INDEX_FILE
    if not index.is_file():
        no_weights(directory)
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        inside = all(Path(name).name == name for name in names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        names, inside = set(), False
    if not names or not inside:
        raise InputError(f"{index}: its weight_map names no files beside it: fetch it again")
    return [directory / name for name in sorted(names)]


def no_weights(directory: Path) -> NoReturn:
    """Raises the `InputError` of a directory without safetensors."""
    pickled = any(directory.glob("*.bin")) or any(directory.glob("*.pt"))
    also = "; its pickled weights are not read, save them with safe_serialization=True"
    raise InputError(
        f"{directory}: holds no {WEIGHTS_FILE} and no {INDEX_FILE}"
        + (also if pickled else ": fetch the model again")
    )


def _open(path: Path, opened: contextlib.ExitStack) -> Any:
    try:
        return opened.enter_context(safe_open(path, "np"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found, and the index names it: fetch it again") from None
    except (OSError, SafetensorError) as e:
        _damaged(path, e)


def _damaged(path: Path, e: Exception) -> NoReturn:
    raise InputError(f"{path}: cannot be read ({first_line(e)}): fetch it again") from None


def _check_tensors(home: dict[str, Any], model: ModelConfig, tied: bool, directory: Path) -> None:
    """Checks names, shapes and types from the headers of the files."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes_of(model))
    tensors = itertools.chain.from_iterable(_theirs(path, leaf.shape) for path, leaf in leaves)
    expected = {tensor.name: tensor.shape for tensor in tensors}
    missing = [name for name in expected if name not in home and not (tied and name == _HEAD)]
    unexpected = [name for name in sorted(home) if name not in expected]
    for names, what in ((missing, "are missing"), (unexpected, f"are unknown by {CONFIG_FILE}")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(
                f"{directory}: tensors {what}: {', '.join(names[:3])}{more}; fetch the model again"
            )
    for name, (path, file) in home.items():
        found = file.get_slice(name)
        shape, dtype = tuple(found.get_shape()), found.get_dtype()
        if shape != expected[name]:
            raise InputError(
                f"{path}: {name} has shape {shape}, and by {CONFIG_FILE} {expected[name]}: fetch "
                "both again"
            )
        if dtype not in _ON_DISK:
            raise InputError(
                f"{path}: {name} is {dtype}, not {', '.join(_ON_DISK)}: save the model unquantised"
            )
