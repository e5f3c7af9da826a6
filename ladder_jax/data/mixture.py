"""The config of `ladder data build`: texts, their shares, and the tokenizer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from fitting.errors import InputError
from ladder_jax.config_text import load_json

KINDS = ("jsonl", "text", "tfds", "huggingface")
DOLMA2 = "dolma2"


@dataclass(frozen=True)
class SourceConfig:
    """One source of documents.

    Attributes:
        kind: `jsonl` (a document a line), `text` (a document a file), `tfds` or `huggingface` (the
            package `datasets`, streaming).
        path: a glob of files, which may be compressed (`.gz`, `.zst`) and lie in a bucket or a
            repository (`gs://`, `hf://datasets/OWNER/NAME/...`); or a dataset's name.
        subset: configuration of a Hugging Face dataset; empty for its only one.
        split: of a TFDS or Hugging Face dataset.
        revision: commit or tag of a Hugging Face dataset; empty for the newest.
        text_field: field that holds the text.
        weight: share of the tokens, relative to the other sources'.
    """

    kind: str = "jsonl"
    path: str = ""
    subset: str = ""
    split: str = "train"
    revision: str = ""
    text_field: str = "text"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"`kind` {self.kind!r} is not one of {', '.join(KINDS)}")
        if not self.path:
            raise InputError("`path` is empty: name files or a dataset")
        if not 0 < self.weight < math.inf:
            raise InputError("`weight` must be positive and finite")


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer of a mixture.

    Attributes:
        path: `dolma2` (`ladder download olmes` fetches it) or a `tokenizer.json`; empty trains a
            byte-level BPE.
        vocab_size: of the BPE.
        sample_mb: megabytes of text it is trained on, of each source its share by weight.
    """

    path: str = ""
    vocab_size: int = 32_768
    sample_mb: int = 64

    def __post_init__(self) -> None:
        if self.vocab_size <= 0 or self.sample_mb <= 0:
            raise InputError("`tokenizer.vocab_size` and `tokenizer.sample_mb` must be positive")


@dataclass(frozen=True)
class Mixture:
    """All settings that decide the packed data.

    Attributes:
        sources: by name (letters, digits, `-` and `_`).
        tokenizer: of all sources.
        seq_len: L of the packed sequences.
        n_tokens: training tokens in all; a source gives its share of them, and begins again where
            it holds fewer.
        heldout_fraction: share of documents, by the hash of their text, that are never trained on.
        unit_mb: megabytes of text that one shard is made of, where a source can be cut: a
            compressed file, or one of a Hugging Face dataset, is a unit however long it is.
        seed: of the split, and of the order in which a source's units are taken.
    """

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    seq_len: int = 4096
    n_tokens: int = 0
    heldout_fraction: float = 0.001
    unit_mb: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("`sources` is empty: name at least one")
        for name in self.sources:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise InputError(f"`sources`: {name!r}: use letters, digits, - and _")
        for name in ("seq_len", "n_tokens", "unit_mb"):
            if getattr(self, name) <= 0:
                raise InputError(f"`{name}` must be positive")
        if not 0 < self.heldout_fraction < 1:
            raise InputError("`heldout_fraction` must lie between 0 and 1")
        if self.seed < 0:
            raise InputError("`seed` must not be negative")

    def wanted(self, name: str) -> int:
        """Training tokens that a source must give."""
        total = math.fsum(source.weight for source in self.sources.values())
        return math.ceil(self.n_tokens * self.sources[name].weight / total)


def load(path: str | Path) -> Mixture:
    """Reads a mixture from JSON.

    Raises:
        InputError: one line that names the file and the unknown, ill-typed or bad field.
    """
    return load_json(Mixture, path)
