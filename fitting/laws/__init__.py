"""Laws and links, one record each; `LAWS` and `LINKS` list them."""

from __future__ import annotations

from fitting.laws.accuracy import LATENT_COMPUTE, LATENT_LOSS, RISING, SINGLE_STEP
from fitting.laws.base import Law, Link, Param
from fitting.laws.links import HILL, LOG_SIGMOID, SIGMOID
from fitting.laws.loss import CHINCHILLA, COMPUTE_ONLY

LAWS = (CHINCHILLA, COMPUTE_ONLY, SINGLE_STEP, RISING, LATENT_LOSS, LATENT_COMPUTE)
LINKS = (SIGMOID, LOG_SIGMOID, HILL)

__all__ = [
    "CHINCHILLA",
    "COMPUTE_ONLY",
    "HILL",
    "LATENT_COMPUTE",
    "LATENT_LOSS",
    "LAWS",
    "LINKS",
    "LOG_SIGMOID",
    "RISING",
    "SIGMOID",
    "SINGLE_STEP",
    "Law",
    "Link",
    "Param",
]
