"""A run's data, packed once or built beforehand, and its batches, read through Grain.

The batch of a step depends on (seed, step) alone, and each of its rows can be read by itself.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grain
import tokenizers
from absl import flags
from tokenizers import Tokenizer

from fitting.errors import InputError, first_line
from ladder_jax.config import DataConfig
from ladder_jax.data import built, sources
from ladder_jax.data.documents import Document
from ladder_jax.data.shards import Records, Writer, encode
from ladder_jax.data.tokenizer import load, train_bpe
from ladder_jax.models.protocol import Batch
from ladder_jax.runtime import processes

_ENCODE_AT_ONCE = 512
_FORMAT = 1  # of the packed files; a change packs again


@dataclass(frozen=True)
class PackedInfo:
    """Facts about a packed dataset.

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
    """A packed dataset on disk: `train` and `heldout` records, and the tokenizer."""

    directory: Path
    info: PackedInfo
    parts: dict[str, Records]

    @property
    def tokenizer(self) -> Tokenizer:
        return load(self.directory / "tokenizer.json")

    def sequences(self, part: str) -> grain.MapDataset:
        """All records of `train` or `heldout` in order, each int32 of shape (L + 1,)."""
        records = self.parts[part]
        return grain.MapDataset.range(len(records)).map(lambda i: records.read([i])[0])

    def batches(
        self, batch_seqs: int, seed: int, rows: Sequence[int] | None = None
    ) -> grain.MapDataset:
        """Training batches by step: `batches[step]` is `{"tokens": int32 of shape (B, L + 1)}`.

        Each epoch is a new permutation; a batch may straddle two epochs.

        Args:
            batch_seqs: B, sequences of a batch.
            seed: of the permutations.
            rows: those of each batch that are read, in this order; all by default.
        """
        records = self.parts["train"]
        order: Any = grain.MapDataset.range(len(records)).seed(seed).shuffle().repeat()
        wanted = range(batch_seqs) if rows is None else [int(row) for row in rows]
        # One read a batch: a record at a time costs a call through Grain each.
        return grain.MapDataset.range(len(order) // batch_seqs).map(
            lambda step: {"tokens": records.read(order[step * batch_seqs + row] for row in wanted)}
        )


def read_ahead(batches: grain.MapDataset, start: int, workers: int) -> Generator[Batch, None, None]:
    """Batches `start`, `start + 1`, ... of `Packed.batches`; close it (`contextlib.closing`).

    Args:
        batches: by step.
        start: the first step.
        workers: processes that read, each two batches ahead; 0 reads in this process on demand.
    """
    reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    stream = batches[start:].to_iter_dataset(reading)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads flags, and this is no absl program
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        begin = functools.partial(_begin_reader, os.getpid())
        stream = stream.mp_prefetch(options, worker_init_fn=begin)
    with contextlib.closing(iter(stream)) as iterator:
        yield from iterator


def _begin_reader(parent: int, worker: int, n_workers: int) -> None:
    """Prepares a reader process, which ends with its parent."""
    processes.live_with(parent)


def prepare(config: DataConfig, seq_len: int, cache: Path) -> Packed:
    """Reads, splits, tokenises and packs a corpus; finds it in the cache the second time.

    A corpus that `ladder data build` made is opened in place.

    Raises:
        InputError: see `built.Index.open`, `sources.load` and `train_bpe`.
    """
    if config.source == sources.BUILT:
        return _open_built(config, seq_len)
    corpus = sources.load(config)
    made_of = (_FORMAT, tokenizers.__version__, corpus.fingerprint, config.vocab_size, seq_len)
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    directory = cache / "packed" / key
    if (directory / "info.json").is_file():
        return _open(directory)
    tokenizer = train_bpe(corpus.train, config.vocab_size, cache)
    partial = directory.with_name(f".{key}-{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        tokenizer.save(str(partial / "tokenizer.json"))
        parts = {
            part: _write(documents, tokenizer, seq_len, _file(partial, part))
            for part, documents in (("train", corpus.train), ("heldout", corpus.heldout))
        }
        info = PackedInfo(
            seq_len=seq_len,
            n_sequences={part: writer.n_records for part, writer in parts.items()},
            n_tokens={part: writer.n_tokens for part, writer in parts.items()},
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
        raise InputError(f"{directory}: cannot be written: {first_line(e)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _open(directory)


def _file(directory: Path, part: str) -> Path:
    return directory / f"{part}.array_record"


def _open(directory: Path) -> Packed:
    info = PackedInfo(**json.loads((directory / "info.json").read_text()))
    counts = info.n_sequences.items()
    return Packed(
        directory, info, {part: Records.of_file(_file(directory, part), n) for part, n in counts}
    )


def _open_built(config: DataConfig, seq_len: int) -> Packed:
    index = built.Index.open(config.path)
    for name, mine, theirs in (
        ("model.seq_len", seq_len, index.seq_len),
        ("data.vocab_size", config.vocab_size, index.vocab_size),
    ):
        if mine != theirs:
            raise InputError(f"{config.path}: was built with `{name}` {theirs}, the run has {mine}")
    info = PackedInfo(
        seq_len=seq_len,
        n_sequences={part: len(records) for part, records in index.parts.items()},
        n_tokens=index.n_tokens,
        heldout_bytes=index.heldout_bytes,
        vocab_size=index.vocab_size,
        fingerprint=index.fingerprint,
    )
    return Packed(index.directory, info, index.parts)


def _fingerprint(text: str, tokenizer: Tokenizer) -> str:
    return hashlib.sha256(f"{text} {tokenizer.to_str()}".encode()).hexdigest()


def _write(documents: Sequence[Document], tokenizer: Tokenizer, seq_len: int, path: Path) -> Writer:
    """Packs all documents as one stream, an end of text before the first and after each."""
    writer = Writer(path, seq_len, tokenizer)
    for i in range(0, len(documents), _ENCODE_AT_ONCE):
        texts = [d.text for d in documents[i : i + _ENCODE_AT_ONCE]]
        for ids in encode(texts, tokenizer):
            writer.add(ids)
    writer.close()
    return writer
