"""Tokens packed into sequences in array_record files, and batches read from them through Grain.

A record is L + 1 token ids: inputs and, shifted by one, targets.  Consecutive records share one
token, so that every token but the very first is predicted once.  The last record is padded with
-1, which no loss counts.  The batch of a step depends on (seed, step) alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tokenizers
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tokenizers import Tokenizer

from fitting.table import InputError
from ladder_jax.config import DataConfig
from ladder_jax.data import sources
from ladder_jax.data.sources import Document
from ladder_jax.data.tokenizer import END_OF_TEXT, load, train_bpe

PADDING = -1
_ENCODE_AT_ONCE = 512
_FORMAT = 1  # of the packed files; a change makes them anew


@dataclass(frozen=True)
class PackedInfo:
    """What a packed dataset holds.

    Attributes:
        seq_len: L.
        n_sequences: records in each part.
        n_tokens: predicted tokens in each part.
        heldout_bytes: UTF-8 bytes of the held-out text, for bits per byte.
        vocab_size: entries of the tokenizer.
        fingerprint: of the text and the tokenizer.
    """

    seq_len: int
    n_sequences: dict[str, int]
    n_tokens: dict[str, int]
    heldout_bytes: int
    vocab_size: int
    fingerprint: str


@dataclass(frozen=True)
class Packed:
    """A packed dataset on disk, and its tokenizer."""

    directory: Path
    info: PackedInfo

    @property
    def tokenizer(self) -> Tokenizer:
        return load(self.directory / "tokenizer.json")

    def sequences(self, part: str) -> grain.MapDataset:
        """All records of `train` or `heldout` in order, each int32 of shape (L + 1,)."""
        source: Any = grain.sources.ArrayRecordDataSource(
            str(self.directory / f"{part}.array_record")
        )
        return grain.MapDataset.source(source).map(_decode)

    def batches(
        self, batch_seqs: int, seed: int, rows: Sequence[int] | None = None
    ) -> grain.MapDataset:
        """Training batches by step: `batches[step]` is int32 of shape (B, L + 1), or its `rows`.

        Each epoch is a new permutation; a batch may straddle two epochs.
        """
        reader = ArrayRecordReader(str(self.directory / "train.array_record"))
        index = grain.MapDataset.range(reader.num_records()).seed(seed).shuffle().repeat()
        # One read a batch: a record at a time costs a call through Grain each.
        own = slice(None) if rows is None else np.asarray(rows)
        return index.batch(batch_seqs).map(
            lambda i: np.stack([_decode(record) for record in reader.read(i[own].tolist())])
        )


def read_ahead(batches: grain.MapDataset, start: int, workers: int) -> Iterator[np.ndarray]:
    """Batches from `start` on."""
    step = start
    while True:
        yield batches[step]
        step += 1


def prepare(config: DataConfig, seq_len: int, cache: Path) -> Packed:
    """Reads, splits, tokenises and packs a corpus; finds it in the cache the second time.

    Raises:
        InputError: see `sources.load` and `train_bpe`.
    """
    corpus = sources.load(config)
    made_of = (_FORMAT, tokenizers.__version__, corpus.fingerprint, config.vocab_size, seq_len)
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    directory = cache / "packed" / key
    if (directory / "info.json").is_file():
        return Packed(directory, PackedInfo(**json.loads((directory / "info.json").read_text())))
    tokenizer = train_bpe(corpus.train, config.vocab_size, cache)
    partial = directory.with_name(f".{key}-{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        tokenizer.save(str(partial / "tokenizer.json"))
        n_sequences, n_tokens = {}, {}
        for part, documents in (("train", corpus.train), ("heldout", corpus.heldout)):
            stream = encode(documents, tokenizer)
            records = pack(stream, seq_len)
            _write(records, partial / f"{part}.array_record")
            n_sequences[part], n_tokens[part] = len(records), len(stream) - 1
        info = PackedInfo(
            seq_len=seq_len,
            n_sequences=n_sequences,
            n_tokens=n_tokens,
            heldout_bytes=sum(len(d.text.encode()) for d in corpus.heldout),
            vocab_size=tokenizer.get_vocab_size(),
            fingerprint=_fingerprint(corpus.fingerprint, tokenizer),
        )
        (partial / "info.json").write_text(json.dumps(asdict(info), indent=2) + "\n")
        try:
            partial.replace(directory)
        except OSError:  # another process was first
            if not (directory / "info.json").is_file():
                raise
    except (OSError, RuntimeError) as e:  # the record writer raises RuntimeError
        raise InputError(f"{directory}: cannot be written: {str(e).splitlines()[0]}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Packed(directory, info)


def _fingerprint(text: str, tokenizer: Tokenizer) -> str:
    return hashlib.sha256(f"{text} {tokenizer.to_str()}".encode()).hexdigest()


def encode(documents: Sequence[Document], tokenizer: Tokenizer) -> np.ndarray:
    """All documents as one stream of ids, an end of text before the first and after each."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    pieces = [np.array([end], np.int32)]
    for i in range(0, len(documents), _ENCODE_AT_ONCE):
        texts = [d.text for d in documents[i : i + _ENCODE_AT_ONCE]]
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
            pieces.append(np.array([*encoding.ids, end], np.int32))
    return np.concatenate(pieces)


def pack(stream: np.ndarray, seq_len: int) -> np.ndarray:
    """Cuts a stream of M ids into int32 records of shape (ceil((M - 1) / L), L + 1)."""
    n_records = -(-(len(stream) - 1) // seq_len)
    padded = np.full(n_records * seq_len + 1, PADDING, np.int32)
    padded[: len(stream)] = stream
    starts = np.arange(n_records) * seq_len
    return padded[starts[:, None] + np.arange(seq_len + 1)]


def _write(records: np.ndarray, path: Path) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record.astype("<i4").tobytes())
    writer.close()


def _decode(record: bytes) -> np.ndarray:
    return np.frombuffer(record, "<i4")
