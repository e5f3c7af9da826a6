"""Documents, and their split into train and held-out."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass

from fitting.errors import InputError


@dataclass(frozen=True)
class Document:
    """A text, a name that does not change, and the stratum it is split within."""

    name: str
    text: str
    stratum: str = ""


@dataclass(frozen=True)
class Corpus:
    """Documents in two parts that share none."""

    train: tuple[Document, ...]
    heldout: tuple[Document, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the names and texts of both parts."""
        digest = hashlib.sha256()
        for part in (self.train, self.heldout):
            for document in part:
                for piece in (document.name, document.text):
                    digest.update(hashlib.sha256(piece.encode()).digest())
            digest.update(b"|")
        return digest.hexdigest()


def split(documents: list[Document], fraction: float, seed: int) -> Corpus:
    """Holds out a share of each stratum, by document; which ones depends on seed and name.

    Raises:
        InputError: nothing would be left on one of the sides.
    """
    strata = defaultdict(list)
    for document in documents:
        strata[document.stratum].append(document)
    chosen: set[str] = set()
    for members in strata.values():
        ranked = sorted(members, key=lambda d: hashlib.sha256(f"{seed}/{d.name}".encode()).digest())
        chosen |= {d.name for d in ranked[: round(fraction * len(ranked))]}
    if not chosen:  # many tiny strata: fall back on the whole
        ranked = sorted(
            documents, key=lambda d: hashlib.sha256(f"{seed}/{d.name}".encode()).digest()
        )
        chosen = {d.name for d in ranked[: max(1, round(fraction * len(ranked)))]}
    train = tuple(d for d in documents if d.name not in chosen)
    if not train:
        raise InputError(
            f"{len(documents)} document(s) cannot be split into train and held-out: add documents"
        )
    return Corpus(train, tuple(d for d in documents if d.name in chosen))
