"""Readers of a mixture's sources: a source is cut into units, each read as a stream.

A unit is a JSON object that says what to read; its documents and their order depend on it alone, so
that any process can read it at any time.  JSONL is cut by bytes of the decompressed text; how long
a compressed file is shows when its last unit is read.  TFDS is cut by examples, text files are
gathered into units, and a file of a Hugging Face dataset is a unit as it is.
"""

from __future__ import annotations

import contextlib
import glob
import io
import re
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import pyarrow
from etils import epath

from fitting.errors import InputError, first_line
from ladder_jax.data import sources
from ladder_jax.data.mixture import SourceConfig

Unit = dict[str, Any]
Documents = Generator[str, None, Unit | None]

_CODECS = {".gz": "gzip", ".zst": "zstd"}
_SKIP = 1 << 20
_WILD = re.compile(r"[*?\[]")


def units(source: SourceConfig, size: int) -> list[Unit]:
    """All units of a source in its own order, of about `size` bytes each where it can be cut.

    Raises:
        InputError: nothing is there, or it cannot be read.
    """
    with _read_errors(source.path):
        found = _KINDS[source.kind].units(source, size)
    if not found:
        raise InputError(f"{source.path}: nothing found")
    return found


def documents(source: SourceConfig, unit: Unit) -> Documents:
    """The texts of a unit, in order; returns the next unit if only reading this one revealed it.

    Raises:
        InputError: a document cannot be read, or a file is not what it was.
    """
    with _read_errors(unit.get("file", source.path)):
        return (yield from _KINDS[source.kind].documents(source, unit))


@contextlib.contextmanager
def _read_errors(where: str) -> Iterator[None]:
    """Turns errors of file systems and dataset libraries into `InputError`s of one line."""
    try:
        yield
    except InputError:
        raise
    except ImportError as e:
        scheme = where.partition("://")[0]
        hint = {"gs": "; pip install 'ladder_jax[gcs]'"}.get(scheme, "")
        raise InputError(f"{where}: cannot be read: {e}{hint}") from None
    except Exception as e:  # each library has its own classes
        raise InputError(f"{where}: cannot be read: {first_line(e)}") from None


def _files(pattern: str) -> list[tuple[str, int]]:
    """Files of a glob with their sizes in bytes, sorted by name."""
    wild = _WILD.search(pattern)
    if wild is None:
        found = [epath.Path(pattern)]
    elif "://" in pattern:
        root, rest = pattern[: wild.start()].rsplit("/", 1)
        found = epath.Path(root).glob(rest + pattern[wild.start() :])
    else:
        found = map(epath.Path, glob.glob(pattern, recursive=True))
    named = sorted(str(path) for path in found if not path.is_dir())
    return [(name, epath.Path(name).stat().length) for name in named]


@contextlib.contextmanager
def _open(name: str, size: int) -> Iterator[Any]:
    """A binary stream of a file, decompressed by its ending."""
    path = epath.Path(name)
    if path.stat().length != size:
        raise InputError(f"{name}: has changed since this build began: use another `out`")
    with path.open("rb") as raw:
        codec = _CODECS.get(path.suffix)
        if codec is None:
            yield raw
        else:
            with pyarrow.CompressedInputStream(raw, codec) as stream:
                yield io.BufferedReader(stream)


def _jsonl_units(source: SourceConfig, size: int) -> list[Unit]:
    found = []
    for name, length in _files(source.path):
        compressed = epath.Path(name).suffix in _CODECS
        for start in [0] if compressed else range(0, length, size):
            found.append({"file": name, "size": length, "start": start, "stop": start + size})
    return found


def _jsonl_documents(source: SourceConfig, unit: Unit) -> Documents:
    """Lines that begin in [start, stop) of the decompressed file."""
    start, stop = unit["start"], unit["stop"]
    compressed = epath.Path(unit["file"]).suffix in _CODECS
    with _open(unit["file"], unit["size"]) as file:
        at = start
        if start:  # ends in the middle of a line, which another unit has begun
            _skip(file, start - 1, compressed)
            at += len(file.readline()) - 1
        while at < stop:
            line = file.readline()
            if not line:
                return None
            if line.strip():
                yield sources.text_of(line, source.text_field, f"{unit['file']}: byte {at}")
            at += len(line)
    return {**unit, "start": stop, "stop": 2 * stop - start} if compressed else None


def _skip(file: Any, n: int, compressed: bool) -> None:
    if not compressed:
        file.seek(n)
        return
    while n > 0:
        passed = len(file.read(min(n, _SKIP)))
        n = n - passed if passed else 0


def _text_units(source: SourceConfig, size: int) -> list[Unit]:
    found, room = [], 0
    for name, length in _files(source.path):
        if room <= 0:
            found.append({"files": []})
            room = size
        found[-1]["files"].append([name, length])
        room -= length
    return found


def _text_documents(source: SourceConfig, unit: Unit) -> Documents:
    for name, size in unit["files"]:
        with _read_errors(name), _open(name, size) as file:
            yield file.read().decode()


def _tfds_units(source: SourceConfig, size: int) -> list[Unit]:
    builder = sources.tfds_builder(source.path)
    splits = builder.info.splits
    if source.split not in splits:
        raise InputError(f"{source.path}: no split {source.split!r}; it has {', '.join(splits)}")
    info = splits[source.split]
    step = max(1, info.num_examples * size // max(1, info.num_bytes))
    return [
        {"start": start, "stop": min(start + step, info.num_examples)}
        for start in range(0, info.num_examples, step)
    ]


def _tfds_documents(source: SourceConfig, unit: Unit) -> Documents:
    data: Any = sources.tfds_builder(source.path).as_data_source(split=source.split)
    for i in range(unit["start"], unit["stop"]):
        yield sources.text_in(data[i], source.text_field, source.path)


def _hugging_face(source: SourceConfig) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            f"{source.path}: kind huggingface needs a package: pip install 'ladder_jax[hf]'"
        ) from None
    return datasets.load_dataset(
        source.path, source.subset or None, split=source.split, streaming=True,
        revision=source.revision or None,
    )  # fmt: skip


def _hugging_face_units(source: SourceConfig, size: int) -> list[Unit]:
    """Its files, as it is stored."""
    n = _hugging_face(source).num_shards
    return [{"shard": i, "of": n} for i in range(n)]


def _hugging_face_documents(source: SourceConfig, unit: Unit) -> Documents:
    for example in _hugging_face(source).shard(unit["of"], unit["shard"]):
        yield sources.text_in(example, source.text_field, source.path)


class _Kind(NamedTuple):
    units: Callable[[SourceConfig, int], list[Unit]]
    documents: Callable[[SourceConfig, Unit], Documents]


_KINDS = {
    "jsonl": _Kind(_jsonl_units, _jsonl_documents),
    "text": _Kind(_text_units, _text_documents),
    "tfds": _Kind(_tfds_units, _tfds_documents),
    "huggingface": _Kind(_hugging_face_units, _hugging_face_documents),
}
