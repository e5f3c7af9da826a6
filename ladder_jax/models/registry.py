"""The model families by the type of their config; a new family is one entry of `_FAMILIES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ladder_jax.config import ModelConfig
from ladder_jax.models import decoder_counts
from ladder_jax.models.protocol import Architecture, Counts


def architecture(config: Any) -> Architecture:
    """The functions of a config's model family.

    Raises:
        TypeError: no family has this type of config (a defect of the code).
    """
    return _family(config).load()


def counts_of(config: Any) -> Counts:
    """The exact counts of a model; imports no JAX.

    Raises:
        TypeError: see `architecture`.
    """
    return _family(config).count(config)


class _Family(NamedTuple):
    load: Callable[[], Architecture]  # imports JAX, hence not before it is needed
    count: Callable[[Any], Counts]


def _family(config: Any) -> _Family:
    try:
        return _FAMILIES[type(config)]
    except KeyError:
        raise TypeError(f"no model family has the config {type(config).__name__}") from None


def _decoder() -> Architecture:
    from ladder_jax.models import decoder

    return decoder


_FAMILIES: dict[type, _Family] = {ModelConfig: _Family(_decoder, decoder_counts.counts)}
