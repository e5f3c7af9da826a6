"""Text to packed tokens: long documents."""

import numpy as np

from ladder_jax.data import (
    shards,
)
from ladder_jax.data.documents import Document
from ladder_jax.data.tokenizer import train_bpe
from tests.mixtures import texts


def test_a_long_text_is_encoded_in_pieces_to_the_same_ids(tmp_path, monkeypatch):
    text = " ".join(texts(5, 40))
    tokenizer = train_bpe([Document("a", text)], 400, tmp_path)
    (plain,) = shards.encode([text], tokenizer)
    monkeypatch.setattr(shards, "_LONGEST", 200)
    monkeypatch.setattr(shards, "_MARGIN", 50)
    assert len(list(shards._pieces(text))) > 10
    assert "".join(shards._pieces(text)) == text
    pieces = np.concatenate(list(shards.encode([text, "end"], tokenizer)))
    np.testing.assert_array_equal(pieces[: len(plain)], plain)
