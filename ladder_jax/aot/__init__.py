"""Training steps compiled ahead of time, for hardware that this machine does not have."""

from __future__ import annotations

from ladder_jax.aot.compile import (
    LEAST_EFFORT,
    Compiled,
    Topology,
    closed_form_flops,
    compile_step,
    count_collectives,
    devices,
    divisors,
    layouts,
    step_flops,
    topology,
)

__all__ = [
    "LEAST_EFFORT",
    "Compiled",
    "Topology",
    "closed_form_flops",
    "compile_step",
    "count_collectives",
    "devices",
    "divisors",
    "layouts",
    "step_flops",
    "topology",
]
