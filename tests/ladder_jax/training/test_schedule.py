"""The learning rate: warm-up and cosine decay."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ladder_jax.config import (
    OptimConfig,
)
from ladder_jax.training.schedule import learning_rate, schedule_of


def test_the_schedule_warms_up_and_falls_to_a_tenth():
    config = OptimConfig(lr_peak=2.0, warmup_steps=5)
    schedule = schedule_of(config, 105)
    rates = np.array([learning_rate(schedule, jnp.float32(s)) for s in range(105)])
    np.testing.assert_allclose(rates[:5], [0.4, 0.8, 1.2, 1.6, 2.0], rtol=1e-6)
    assert rates.argmax() in (4, 5)
    assert rates[54] == pytest.approx(2 * (0.1 + 0.9 / 2), rel=1e-5)
    assert rates[-1] == pytest.approx(0.2, rel=1e-6)
    reference = optax.cosine_decay_schedule(2.0, 100, alpha=0.1)
    np.testing.assert_allclose(rates[5:], [reference(s) for s in range(1, 101)], rtol=1e-5)
