"""Calls of the scorer: rows of blocks, laid out as arrays of one static shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ARMS = 16  # targets that one position may predict: first tokens of a document's choices


@dataclass(frozen=True)
class TokenBlock:
    """The tokens of one bundle that follow its group's prefix; all arrays int32.

    Attributes:
        token: shape (L,).
        position: shape (L,), of each token in its sequence.
        end: shape (L,), the index after a token's last descendant.
        source: a cell for each continuation token: the index in the block that predicts it.
        target: the id of that continuation token.
        request: the number of its request.
    """

    token: np.ndarray
    position: np.ndarray
    end: np.ndarray
    source: np.ndarray
    target: np.ndarray
    request: np.ndarray


@dataclass(frozen=True)
class Call:
    """One forward pass of B rows of T tokens, in W shards of rows; all arrays int32.

    Attributes:
        token: shape (B, T), padded with 0.
        position: shape (B, T), of each token in its sequence; padded with 0.
        end: shape (B, T), the index in the row after a token's last descendant; padded with 0.
        source: positions to predict from, shape (W, S): indices into a shard's B/W x T tokens.
        target: shape (W, S, A): what may follow each, padded with 0.
        n_sources: the most sources that a shard has.
        cell: indices into `target`, raveled, of continuation tokens; shape (M,).
        request: the number of each one's request, shape (M,).
    """

    token: np.ndarray
    position: np.ndarray
    end: np.ndarray
    source: np.ndarray
    target: np.ndarray
    n_sources: int
    cell: np.ndarray
    request: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Tokens without padding."""
        return int((self.end > 0).sum())


class Rows(NamedTuple):
    """The blocks of each row of a call, and the shape (B, T) of its arrays."""

    blocks: list[list[TokenBlock]]
    shape: tuple[int, int]


def lay_out(rows: Rows, n_shards: int) -> Call:
    """The arrays of a call, its rows in `n_shards` equal shards."""
    shape = rows.shape
    token, position, end = (np.zeros(shape, np.int32) for _ in range(3))
    source, target, request = [], [], []
    for row, members in enumerate(rows.blocks):
        at = 0
        for block in members:
            span = slice(at, at + len(block.token))
            token[row, span], position[row, span] = block.token, block.position
            end[row, span] = at + block.end
            source.append(row * shape[1] + at + block.source)
            target.append(block.target)
            request.append(block.request)
            at = span.stop
    per_shard = token.size // n_shards
    cells = _cells(np.concatenate(source), np.concatenate(target), per_shard, n_shards)
    return Call(token, position, end, *cells, np.concatenate(request))


class _Cells(NamedTuple):
    """Fields of a `Call`."""

    source: np.ndarray
    target: np.ndarray
    n_sources: int
    cell: np.ndarray


def _cells(source: np.ndarray, target: np.ndarray, per_shard: int, n_shards: int) -> _Cells:
    """The cells of a call by shard and source.

    Args:
        source: of each cell, the index among the call's B x T tokens.
        target: the id of each cell.
        per_shard: tokens of a shard.
        n_shards: W.
    """
    distinct, slot = np.unique(source, return_inverse=True)
    shard = distinct // per_shard
    first = np.searchsorted(shard, np.arange(n_shards))
    place = np.arange(len(distinct)) - first[shard]  # within the shard
    sources = np.zeros((n_shards, per_shard), np.int32)
    sources[shard, place] = distinct % per_shard
    order = np.argsort(slot, kind="stable")
    arm = np.empty(len(slot), int)  # cells of one source follow each other in `order`
    arm[order] = np.arange(len(slot)) - np.searchsorted(slot[order], slot[order])
    targets = np.zeros((n_shards, per_shard, ARMS), np.int32)
    at = (shard[slot], place[slot], arm)
    targets[at] = target
    cell = np.ravel_multi_index(at, targets.shape).astype(np.int32)
    return _Cells(sources, targets, int(place.max()) + 1, cell)
