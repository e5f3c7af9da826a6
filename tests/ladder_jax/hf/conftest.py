"""Weights and a tokenizer for models in the layout of Hugging Face."""

import jax
import numpy as np
import pytest

from ladder_jax.data.documents import Document
from ladder_jax.data.tokenizer import train_bpe
from ladder_jax.models import decoder
from tests.helpers import BIG


@pytest.fixture(scope="module")
def params():
    """Weights of `BIG`; norm scales are random too, so that a missing one is noticed."""
    leaves, tree = jax.tree.flatten(decoder.abstract_params(BIG))
    rng = np.random.default_rng(0)
    return tree.unflatten([rng.normal(size=x.shape).astype(np.float32) for x in leaves])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The path of a small `tokenizer.json`."""
    directory = tmp_path_factory.mktemp("tokenizer")
    made = train_bpe([Document("0", "the cat sat on the mat " * 20)], 280, directory)
    made.save(str(directory / "tokenizer.json"))
    return directory / "tokenizer.json"
