"""Held-out loss: in nats and in bits per byte, over the same text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ladder_jax.data import pipeline
from ladder_jax.eval import heldout
from ladder_jax.models import decoder
from tests.helpers import MODEL


def test_losses_cover_the_same_text_in_nats_and_bytes(run, cache):
    packed = pipeline.prepare(run.data, MODEL.seq_len, cache)
    whole = heldout.Heldout.of(packed, 10**9)
    assert whole.n_bytes == packed.info.heldout_bytes
    assert whole.n_tokens == packed.info.n_tokens["heldout"]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), decoder.abstract_params(MODEL))
    uniform = heldout.measure(MODEL, zeros, whole)
    assert uniform["lm_loss"] == pytest.approx(np.log(304), rel=1e-6)
    bits = np.log2(304) * whole.n_tokens / whole.n_bytes
    assert uniform["lm_bpb"] == pytest.approx(bits, rel=1e-6)
    few = heldout.Heldout.of(packed, 100)
    assert few.n_sequences == 7
    assert few.n_bytes < whole.n_bytes
