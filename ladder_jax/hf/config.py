"""`config.json` of an OLMo 2 model, as transformers 4 and 5 write and read it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fitting.errors import InputError
from ladder_jax.config import ModelConfig

CONFIG_FILE = "config.json"
_ARCHITECTURE, _MODEL_TYPE = "Olmo2ForCausalLM", "olmo2"
_SIZES = {  # theirs: ours
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "d_ff",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "seq_len",
}
_ONLY = {  # what our decoder does, as does a file in which the field is absent or null
    "architectures": [_ARCHITECTURE],
    "hidden_act": "silu",
    "attention_bias": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}


def read_config(directory: str | Path) -> ModelConfig:
    """The model that a directory's `config.json` describes.

    As many key and value heads as query heads are read as `n_kv_heads=0`; `scan_layers` and
    `remat`, which the file does not have, stay off.

    Raises:
        InputError: the file is absent or damaged, a field is missing or ill-typed, or our decoder
            cannot do what it asks for.
    """
    path = Path(directory) / CONFIG_FILE
    config = _load(path)
    _check_supported(config, path)
    known: dict[str, Any] = {
        ours: _number(config, theirs, path, int) for theirs, ours in _SIZES.items()
    }
    heads = config.get("num_key_value_heads")
    if heads not in (None, known["n_heads"]):
        known["n_kv_heads"] = _number(config, "num_key_value_heads", path, int)
    known["norm_eps"] = _number(config, "rms_norm_eps", path)
    known["rope_theta"] = _rope_theta(config, path)
    if config.get("initializer_range") is not None:
        known["init_std"] = _number(config, "initializer_range", path)
    try:
        model = ModelConfig(**known)
    except InputError as e:
        raise InputError(f"{path}: {e}; fetch the file again") from None
    if config.get("head_dim") not in (None, model.head_dim):
        _refuse(path, "head_dim", config["head_dim"], model.head_dim)
    return model


def is_tied(directory: str | Path) -> bool:
    """Whether the output head is the input table, transposed (by default it is not).

    Raises:
        InputError: `config.json` is absent or damaged.
    """
    return bool(_load(Path(directory) / CONFIG_FILE).get("tie_word_embeddings", False))


def to_config(model: ModelConfig, dtype: str, end_of_text: int | None) -> dict[str, Any]:
    """The content of a `config.json` that transformers 4 and 5 both understand.

    Args:
        model: the model of the weights.
        dtype: that of the weights, `float32` or `bfloat16`.
        end_of_text: id of the token that ends a document, if there is a tokenizer.
    """
    sizes = {theirs: getattr(model, ours) for theirs, ours in _SIZES.items()}
    return sizes | {
        "architectures": [_ARCHITECTURE],
        "model_type": _MODEL_TYPE,
        "num_key_value_heads": model.kv_heads,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,  # transformers 4
        "rope_parameters": {"rope_theta": model.rope_theta, "rope_type": "default"},  # and 5
        "initializer_range": model.init_std or model.d_model**-0.5,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "dtype": dtype,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": end_of_text,
        "pad_token_id": None,  # their default, 1, would be one of our tokens
    }


def _load(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: not found; give a directory that holds a model saved by transformers"
        ) from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}") from None
    except ValueError as e:
        raise InputError(f"{path}: not valid JSON ({e}): fetch the file again") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds a {type(config).__name__}; a config is a JSON object")
    return config


def _check_supported(config: dict[str, Any], path: Path) -> None:
    if config.get("model_type") != _MODEL_TYPE:
        _refuse(path, "model_type", config.get("model_type"), _MODEL_TYPE)
    for field, ours in _ONLY.items():
        if config.get(field) not in (None, ours):
            _refuse(path, field, config[field], ours)
    for field in ("rope_scaling", "rope_parameters"):
        rope = config.get(field) or {}
        if not isinstance(rope, dict):
            _refuse(path, field, rope, {"rope_type": "default"})
        for key, value in rope.items():
            fine = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1.0}
            if key != "rope_theta" and (key not in fine or value not in (None, fine[key])):
                _refuse(path, f"{field}.{key}", value, fine.get(key))


def _refuse(path: Path, field: str, value: Any, ours: Any) -> None:
    shown = repr(value)
    shown = shown if len(shown) < 80 else f"{shown[:80]}..."
    raise InputError(
        f"{path}: {field} is {shown}, and the decoder here only does {ours!r}: choose another model"
    )


def _rope_theta(config: dict[str, Any], path: Path) -> float:
    """The base of the rotary frequencies, from wherever a version of transformers puts it."""
    places = [config, config.get("rope_parameters") or {}, config.get("rope_scaling") or {}]
    found = {_number(p, "rope_theta", path) for p in places if p.get("rope_theta") is not None}
    if len(found) > 1:
        values = " and ".join(str(theta) for theta in sorted(found))
        raise InputError(f"{path}: rope_theta is both {values}: keep one")
    return found.pop() if found else _number(config, "rope_theta", path)


def _number(config: dict[str, Any], field: str, path: Path, kind: type = float) -> Any:
    value = config.get(field)
    if value is None:
        raise InputError(f"{path}: {field} is missing: add it, as the model was trained")
    kinds = (int,) if kind is int else (int, float)
    if type(value) not in kinds or not math.isfinite(value) or value <= 0:
        noun = "whole number" if kind is int else "number"
        raise InputError(f"{path}: {field} is {value!r}: a positive {noun} is needed")
    return kind(value)
