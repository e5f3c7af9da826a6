"""Packed sequences in array_record files: written as a stream, read by index across many files.

A record is L + 1 token ids: inputs and, shifted by one, targets.  Consecutive records of a file
share one token, so that every token but the very first is predicted once.  The last record of a
file is filled up with `PADDING`, which no loss counts.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
import resource
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tokenizers import Tokenizer

from fitting.errors import InputError, first_line
from ladder_jax.data.tokenizer import END_OF_TEXT
from ladder_jax.models.protocol import PADDING

_LONGEST, _MARGIN = 1 << 20, 1 << 10  # characters encoded at once; among the last of them is a cut
_SPACE = re.compile(r"(?<=\S) (?=\S)")
_THREADS = 16
_SPARE_FILES = 256  # descriptors that a process needs for other things


def pack(stream: np.ndarray, seq_len: int) -> np.ndarray:
    """Cuts a stream of M ids into int32 records of shape (ceil((M - 1) / L), L + 1)."""
    n_records = -(-(len(stream) - 1) // seq_len)
    padded = np.full(n_records * seq_len + 1, PADDING, np.int32)
    padded[: len(stream)] = stream
    starts = np.arange(n_records) * seq_len
    return padded[starts[:, None] + np.arange(seq_len + 1)]


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id that ends every document.

    Raises:
        InputError: the tokenizer has none.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise InputError(f"the tokenizer has no {END_OF_TEXT}, which ends documents: add it")
    return end


def encode(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The ids of each text in order, with an end of text after it.

    To bound memory, about a million characters are encoded at once.  A longer text is cut before a
    space between two words, where byte-level BPE begins a token in any case.
    """
    end = end_of_text(tokenizer)
    for group in _groups(texts):
        encodings = tokenizer.encode_batch_fast([p for p, _ in group], add_special_tokens=False)
        for encoding, (_, last) in zip(encodings, group, strict=True):
            yield np.array([*encoding.ids, end] if last else encoding.ids, np.int32)


def _groups(texts: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces that are encoded at once, and whether each is its text's last."""
    group, size = [], 0
    for text in texts:
        *first, last = _pieces(text)
        for piece in (*first, last):
            group.append((piece, piece is last))
            size += len(piece)
            if size >= _LONGEST:
                yield group
                group, size = [], 0
    if group:
        yield group


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _LONGEST:
        stop = start + _LONGEST
        for space in _SPACE.finditer(text, stop - _MARGIN, stop):
            stop = space.start()
        yield text[start:stop]
        start = stop
    yield text[start:]


class Writer:
    """Packs tokens into one file as they come.

    Attributes:
        n_records: written so far.
        n_tokens: predicted tokens given so far.
    """

    def __init__(self, path: str | Path, seq_len: int, tokenizer: Tokenizer) -> None:
        """Begins a file with an end of text, which nothing predicts."""
        self.n_records = self.n_tokens = 0
        self._seq_len = seq_len
        self._rest = [np.array([end_of_text(tokenizer)], np.int32)]
        self._waiting = 0
        self._file = ArrayRecordWriter(str(path), "group_size:1")

    def add(self, ids: np.ndarray) -> None:
        """Appends ids to the stream."""
        self._rest.append(ids)
        self.n_tokens += len(ids)
        self._waiting += len(ids)
        if self._waiting >= self._seq_len:
            stream = np.concatenate(self._rest)
            whole = self._waiting // self._seq_len * self._seq_len
            self._write(pack(stream[: whole + 1], self._seq_len))
            self._rest = [stream[whole:].copy()]
            self._waiting -= whole

    def close(self) -> None:
        """Pads the last record and closes the file."""
        if self._waiting:
            self._write(pack(np.concatenate(self._rest), self._seq_len))
        self._file.close()

    def _write(self, records: np.ndarray) -> None:
        for record in records:
            self._file.write(record.astype("<i4").tobytes())
        self.n_records += len(records)


@dataclass(frozen=True)
class Segment:
    """Files read as one stream of records, which begins again after the last file.

    Attributes:
        files: path and records of each.
        gives: number of records to give, 0 or more.
    """

    files: tuple[tuple[str, int], ...]
    gives: int

    @property
    def holds(self) -> int:
        """Records in the files."""
        return sum(n for _, n in self.files)


@dataclass(frozen=True)
class Records:
    """The records of all segments in order; can be pickled, and opens files when first read."""

    segments: tuple[Segment, ...]

    @classmethod
    def of_file(cls, path: str | Path, n_records: int) -> Records:
        """All records of one file."""
        return cls((Segment(((str(path), n_records),), n_records),))

    def __len__(self) -> int:
        return sum(segment.gives for segment in self.segments)

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (self.segments,)  # without what is open

    def read(self, index: Iterable[int]) -> np.ndarray:
        """The records at these places, int32 of shape (n, L + 1), in one read of each file."""
        places = [self._find(int(i)) for i in index]
        wanted: dict[int, list[int]] = {}
        for file, position in places:
            wanted.setdefault(file, []).append(position)
        each = map if len(wanted) == 1 else self._threads.map
        read = each(self._read_file, wanted, wanted.values())
        records = {file: iter(found) for file, found in zip(wanted, read, strict=True)}
        return np.stack([np.frombuffer(next(records[file]), "<i4") for file, _ in places])

    def _find(self, place: int) -> tuple[int, int]:
        """The file that holds the record of a place, and its position there."""
        k = bisect.bisect_right(self._ends, place)
        segment, begin = self.segments[k], self._ends[k - 1] if k else 0
        stored = self._begins[k] + (place - begin) % segment.holds
        file = bisect.bisect_right(self._file_ends, stored)
        return file, stored - (self._file_ends[file - 1] if file else 0)

    @functools.cached_property
    def _ends(self) -> list[int]:
        """The last place + 1 of each segment."""
        return list(itertools.accumulate(segment.gives for segment in self.segments))

    @functools.cached_property
    def _begins(self) -> list[int]:
        """The first record of each segment's files, among all files' records."""
        return list(itertools.accumulate((s.holds for s in self.segments), initial=0))

    @functools.cached_property
    def _files(self) -> list[tuple[str, int]]:
        return [file for segment in self.segments for file in segment.files]

    @functools.cached_property
    def _file_ends(self) -> list[int]:
        return list(itertools.accumulate(n for _, n in self._files))

    def _read_file(self, file: int, positions: list[int]) -> list[bytes]:
        path = self._files[file][0]
        try:
            return self._reader(file).read(positions)
        except RuntimeError as e:  # the record reader's, which checks what it reads
            reason = first_line(e, 120)
            raise InputError(f"{path}: damaged ({reason}): run ladder data build again") from None

    def _reader(self, file: int) -> ArrayRecordReader:
        if file not in self._readers:
            options = "readahead_buffer_size:0"  # reads are scattered
            reader = ArrayRecordReader(
                self._files[file][0], options, file_reader_buffer_size=1 << 15
            )
            self._readers[file] = reader
        return self._readers[file]

    @functools.cached_property
    def _readers(self) -> dict[int, ArrayRecordReader]:
        _allow_files(len(self._files))
        return {}

    @functools.cached_property
    def _threads(self) -> ThreadPoolExecutor:
        """Where a batch lies in many files, their latencies overlap."""
        return ThreadPoolExecutor(_THREADS)


def _allow_files(n: int) -> None:
    """Raises the limit of open files, as readers stay open.

    Raises:
        InputError: the system does not allow as many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needs = n + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needs:
        raise InputError(f"{n:,} shards cannot be open at once: raise `ulimit -Hn` to {needs}")
    if soft != resource.RLIM_INFINITY and soft < needs:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needs, hard))
