"""The model families by the type of their config: the one place that names them all."""

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


class Family(NamedTuple):
    """A model family.

    Attributes:
        load: imports the module of its functions, and with it JAX.
        count: exact counts from a config, without JAX.
    """

    load: Callable[[], Architecture]
    count: Callable[[Any], Counts]


def register(config: type, family: Family) -> None:
    """Adds a family, or replaces it, for configs of this type in this process."""
    _FAMILIES[config] = family


def _family(config: Any) -> Family:
    try:
        return _FAMILIES[type(config)]
    except KeyError:
        raise TypeError(f"no model family has the config {type(config).__name__}") from None


def _decoder() -> Architecture:
    from ladder_jax.models import decoder

    return decoder


_FAMILIES: dict[type, Family] = {ModelConfig: Family(_decoder, decoder_counts.counts)}
