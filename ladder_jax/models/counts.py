"""Parameters and FLOPs of any model in closed form, under the conventions in use.

The ladder paper's "non-embedding" N leaves out the input table and keeps the untied output head
(arXiv 2412.04403, Table 1, and the code published with it); Kaplan et al. (arXiv 2001.08361)
leave out both.  All counts are exact integers.
"""

from __future__ import annotations

from typing import Literal

from ladder_jax.config import ModelConfig
from ladder_jax.models.registry import counts_of

FlopsConvention = Literal["olmo", "6n", "matmul"]


def n_params(model: ModelConfig) -> int:
    """Parameters N of the ladder paper: all but the input table, output head included."""
    counts = counts_of(model)
    return counts.non_embedding + counts.output_head


def n_params_total(model: ModelConfig) -> int:
    """Every parameter, input table and output head included."""
    return n_params(model) + counts_of(model).input_table


def n_params_non_embedding(model: ModelConfig) -> int:
    """Parameters without input table and output head (arXiv 2001.08361, Section 2.1)."""
    return counts_of(model).non_embedding


def flops_per_token(model: ModelConfig, convention: FlopsConvention = "olmo") -> int:
    """Training FLOPs for one token.

    Args:
        model: the model; sequences have `model.seq_len` tokens.
        convention: `olmo` is what the ladder paper's compute axis uses: forward 2N + 4 layers D L,
            backward twice that with the input table counted as well (a quirk of its code, kept
            for parity).  `6n` is the rule C = 6 N D.  `matmul` counts what matrix products do,
            forward and twice that backward, the head included and attention not halved for
            causality: 6 (N - norms) + 12 layers D L.  Utilisation (MFU) is reported in it.
    """
    if convention == "6n":
        return 6 * n_params(model)
    attention = counts_of(model).attention
    if convention == "matmul":
        return 6 * (n_params(model) - counts_of(model).norm_scales) + 12 * attention
    forward = 2 * n_params(model) + 4 * attention
    backward = 4 * n_params_total(model) + 8 * attention
    return forward + backward
