"""Finds, reads and writes OLMo 2 models in the format of Hugging Face."""

from __future__ import annotations

from ladder_jax.hf.checkpoint import (
    check_vacant,
    fingerprint,
    locate,
    tokenizer_file,
    write,
)
from ladder_jax.hf.config import read_config
from ladder_jax.hf.weights import check_dtype, read_params

__all__ = [
    "check_dtype",
    "check_vacant",
    "fingerprint",
    "locate",
    "read_config",
    "read_params",
    "tokenizer_file",
    "write",
]
