"""Opens what `ladder data build` made: shards, and the index that describes them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fitting.errors import InputError
from ladder_jax.data import tokenizer
from ladder_jax.data.shards import Records, Segment
from ladder_jax.models.protocol import PADDING

INDEX = "index.json"
TOKENIZER = "tokenizer.json"
FORMAT = 1
PARTS = ("train", "heldout")
_TEXT_TOKENS = 1 << 20  # of held-out text that is read back


@dataclass(frozen=True)
class Index:
    """A finished build, on a local disk.

    Attributes:
        directory: of the build.
        seq_len: L.
        vocab_size: entries of the tokenizer.
        n_tokens: predicted tokens of each part.
        heldout_bytes: UTF-8 bytes of the held-out text.
        fingerprint: of all shards and the tokenizer.
        parts: the records of each part.
    """

    directory: Path
    seq_len: int
    vocab_size: int
    n_tokens: dict[str, int]
    heldout_bytes: int
    fingerprint: str
    parts: dict[str, Records]

    @classmethod
    def open(cls, path: str) -> Index:
        """Reads the index, not the shards.

        Raises:
            InputError: there is no finished build, or not on a local disk.
        """
        if "://" in path:
            raise InputError(
                f"{path}: shards are read from a local disk: copy them (gcloud storage cp -r) or "
                "mount the bucket (gcsfuse)"
            )
        directory = Path(path)
        made = f"ladder data build --mixture FILE.json --out {path or 'DIR'}"
        try:
            tree = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"`data.path` {path!r}: holds no finished build; run: {made}"
            ) from None
        except (OSError, ValueError) as e:
            raise InputError(
                f"{directory / INDEX}: cannot be read: {e}; run again: {made}"
            ) from None
        if tree["format"] != FORMAT:
            raise InputError(f"{directory / INDEX}: made by another version: run again: {made}")
        return cls(
            directory=directory,
            seq_len=tree["seq_len"],
            vocab_size=tree["vocab_size"],
            n_tokens=tree["n_tokens"],
            heldout_bytes=tree["heldout_bytes"],
            fingerprint=tree["fingerprint"],
            parts={part: _records(directory, tree["sources"], part) for part in PARTS},
        )


def _records(directory: Path, sources: dict[str, Any], part: str) -> Records:
    segments = []
    for source in sources.values():
        shards = [shard for shard in source["shards"] if shard["part"] == part]
        files = tuple((str(directory / shard["file"]), shard["records"]) for shard in shards)
        holds = sum(n for _, n in files)
        gives = source["gives"] if part == "train" else holds
        if gives:
            segments.append(Segment(files, gives))
    return Records(tuple(segments))


def heldout_texts(path: str) -> Iterator[tuple[str, str]]:
    """Names and texts of held-out documents, decoded: about a million tokens, from every shard.

    Raises:
        InputError: see `Index.open`.
    """
    index = Index.open(path)
    decoder = tokenizer.load(index.directory / TOKENIZER)
    end = decoder.token_to_id(tokenizer.END_OF_TEXT)
    share = min(1.0, _TEXT_TOKENS / index.n_tokens["heldout"])
    for segment in index.parts["heldout"].segments:
        for file, n in segment.files:
            rows = Records.of_file(file, n).read(range(max(1, round(share * n))))
            ids = np.concatenate([rows[:1, 0], rows[:, 1:].ravel()])
            ends = np.flatnonzero(ids[ids != PADDING] == end)
            for k, (start, stop) in enumerate(itertools.pairwise(ends)):
                yield f"{Path(file).stem}:{k}", decoder.decode(ids[start + 1 : stop].tolist())
