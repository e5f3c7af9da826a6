"""Makes one unit of a source into its two shards, in a worker process.

The shards are a function of the mixture and the unit.  Shards made earlier are kept if their
checksums are right.  A worker holds about a megabyte of text with its tokens at a time, and one
line or file of the source.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath
from tokenizers import Tokenizer

from fitting.errors import InputError, first_line
from ladder_jax.data import readers, storage
from ladder_jax.data.built import PARTS, TOKENIZER
from ladder_jax.data.mixture import Mixture, SourceConfig
from ladder_jax.data.readers import Unit
from ladder_jax.data.shards import Writer, encode
from ladder_jax.data.tokenizer import load
from ladder_jax.runtime import processes

SHARDS = "shards"
_AT_ONCE = 1 << 20  # characters tokenised together
_HASH_BITS = 64
_tokenizer: Tokenizer | None = None


def stem(source: str, number: int) -> str:
    """The common beginning of the names of a unit's files, under the root."""
    return f"{SHARDS}/{source}-{number:06d}"


@dataclass(frozen=True)
class UnitJob:
    """A unit to make.

    Attributes:
        root: of the build.
        source: its name in the mixture.
        number: of the unit within its source.
        unit: what to read.
        limit: training records beyond which the unit need not be read.
    """

    root: str
    mixture: Mixture
    source: str
    number: int
    unit: Unit
    limit: int

    @property
    def config(self) -> SourceConfig:
        return self.mixture.sources[self.source]


def begin(root: str, parent: int) -> None:
    """Prepares a worker process, which ends with its parent."""
    global _tokenizer
    processes.live_with(parent)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    with storage.scratch(epath.Path(root)) as directory:
        local = directory / TOKENIZER
        local.write_bytes((epath.Path(root) / TOKENIZER).read_bytes())
        _tokenizer = load(local)


def run(job: UnitJob) -> dict[str, Any]:
    """Makes the shards of a unit, or finds them whole.

    Returns:
        `documents`; `following`, the next unit if only reading this one revealed it; for each part
        `file`, `records`, `tokens`, `text_bytes`, `bytes` and `sha256`; `found`, whether the shards
        were there already.
    """
    root = epath.Path(job.root)
    name = stem(job.source, job.number)
    note = root / f"{name}.json"
    kept = storage.read_json(note) if note.exists() else None
    if kept is not None and all(
        storage.is_whole(root / kept[part]["file"], kept[part]) for part in PARTS
    ):
        return kept | {"found": True}
    with storage.scratch(root) as directory:
        try:
            made = _make(job, directory)
        except RuntimeError as e:  # the record writer's
            raise InputError(f"{job.root}: cannot be written: {first_line(e)}") from None
        for part in PARTS:
            file = root / f"{name}-{part}.array_record"
            made[part] |= {"file": f"{SHARDS}/{file.name}"}
            made[part] |= storage.publish(directory / part, file)
    storage.write_json(note, made, root)  # last: only now the unit is done
    return made | {"found": False}


def _make(job: UnitJob, directory: Path) -> dict[str, Any]:
    """Writes `train` and `heldout` into a directory."""
    assert _tokenizer is not None
    writers: dict[str, Writer] = {
        part: Writer(directory / part, job.mixture.seq_len, _tokenizer) for part in PARTS
    }
    made: dict[str, Any] = {"documents": 0, "following": None}
    text_bytes: dict[str, int] = dict.fromkeys(PARTS, 0)

    def texts() -> Iterator[str]:
        made["following"] = yield from readers.documents(job.config, job.unit)

    for batch in _batches(texts()):
        divided: dict[str, list[str]] = {part: [] for part in PARTS}
        for text in batch:
            raw = text.encode()
            part = part_of(raw, job.mixture)
            divided[part].append(text)
            text_bytes[part] += len(raw)
        for part, members in divided.items():
            for ids in encode(members, _tokenizer):
                writers[part].add(ids)
        made["documents"] += len(batch)
        if writers["train"].n_records >= job.limit:
            made["following"] = None
            break
    for part, writer in writers.items():
        writer.close()
        made[part] = {
            "records": writer.n_records,
            "tokens": writer.n_tokens,
            "text_bytes": text_bytes[part],
        }
    return made


def part_of(text: bytes, mixture: Mixture) -> str:
    """Which part a document belongs to; equal texts of any source go together."""
    digest = hashlib.sha256(b"%d/" % mixture.seed)
    digest.update(text)
    drawn = int.from_bytes(digest.digest()[: _HASH_BITS // 8], "big") / 2**_HASH_BITS
    return "heldout" if drawn < mixture.heldout_fraction else "train"


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        if not text.strip():
            continue
        batch.append(text)
        size += len(text)
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
