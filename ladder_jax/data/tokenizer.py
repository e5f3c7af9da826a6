"""Byte-level BPE, trained on the training documents and cached by the hash of what it read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fitting.errors import InputError, first_line
from fitting.io import write_atomically
from ladder_jax.data.documents import Document
from ladder_jax.tasks import olmes

END_OF_TEXT = "<|endoftext|>"  # id 0; ends every document
MIN_VOCAB = 257  # all bytes, and the end of text


def train_bpe(documents: Sequence[Document], vocab_size: int, cache: Path) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_size` entries or fewer.

    Args:
        documents: training text.
        vocab_size: at least 257.
        cache: directory that keeps trained tokenizers.

    Raises:
        InputError: the vocabulary cannot hold all bytes.
    """
    if vocab_size < MIN_VOCAB:
        raise InputError(f"`data.vocab_size` is {vocab_size}: byte-level BPE needs {MIN_VOCAB}")
    digest = hashlib.sha256(f"bpe {vocab_size} {tokenizers.__version__}".encode())
    for document in documents:
        digest.update(hashlib.sha256(document.text.encode()).digest())
    path = cache / "tokenizers" / f"{digest.hexdigest()[:16]}.json"
    if path.is_file():
        return load(path)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((d.text for d in documents), trainer)
    write_atomically(path, lambda p: tokenizer.save(str(p)))
    return load(path)


def load(path: Path) -> Tokenizer:
    """Reads a tokenizer that encodes all of a text and no more.

    Text that spells a special token stays text, and what the file says of truncation and padding is
    left out.
    """
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def find_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of the public runs (`dolma2`), or one of the user's.

    Args:
        name: `dolma2`, or the path of a `tokenizer.json` or of a directory that holds one.

    Raises:
        InputError: no such file, or it is no tokenizer.
    """
    if name == "dolma2":
        path = olmes.root() / "tokenizers" / "dolma2.json"
    else:
        path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise InputError(f"{path}: no such tokenizer: name dolma2 or a tokenizer.json")
    try:
        return load(path)
    except Exception as e:  # the package raises no narrower class
        raise InputError(
            f"{path}: no tokenizer of the package tokenizers: {first_line(e)}"
        ) from None


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, name: str) -> None:
    """Checks that a model knows every id of a tokenizer.

    Raises:
        InputError: it does not; begins with `name`.
    """
    n_ids = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if n_ids > vocab_size:
        raise InputError(
            f"{name}: has {n_ids:,} entries, the model's vocabulary {vocab_size:,}: name the "
            "tokenizer that it was trained with"
        )
