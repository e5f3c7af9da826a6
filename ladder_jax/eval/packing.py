"""Requests -> packed rows of few static shapes, so that what requests share is computed once.

Bundles whose contexts begin alike form a group: the keys and values of that prefix are computed
once.  What follows it in a bundle is a block: the rest of the shared context (segment 0) and each
choice's own tokens (segments 1, 2, ...), which all continue at the shared context's positions.  A
token sees the prefix and what precedes it in its block, of segment 0 or of its own.  Blocks are
packed best-fit into rows, rows into calls.  The last token of a continuation predicts nothing and
is left out.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ladder_jax.eval.requests import Bundle, Ids

ARMS = 16  # targets that one position may predict: first tokens of a document's choices
_ROW_LENGTHS = (128, 256, 512, 1024, 2048)
_PREFIX_LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
_GROUP_COST = 512  # tokens: what a group costs beside its prefix, in unfilled calls
_ATTENTION = 1500  # tokens of a row at which attention costs as much as all else


@dataclass(frozen=True)
class Block:
    """One bundle after its group's prefix.

    `token`, `position`, `segment` have the block's length; `source`, `target`, `request` a cell for
    each continuation token: the index in the block that predicts it, its id, and whose it is.
    """

    token: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    source: np.ndarray
    target: np.ndarray
    request: np.ndarray


@dataclass(frozen=True)
class Call:
    """One forward pass of B rows of T tokens, in W shards of rows; all arrays int32.

    Attributes:
        token: shape (B, T), padded with 0, as are `position` and `segment`.
        block: shape (B, T), the block of each token, padded with -1.
        source: positions to predict from, shape (W, S): indices into a shard's B/W x T tokens.
        target: shape (W, S, A): what may follow each, padded with 0.
        n_sources: the most that a shard has of them.
        cell: indices into `target`, raveled, of continuation tokens; shape (M,).
        request: whose they are, shape (M,).
    """

    token: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    block: np.ndarray
    source: np.ndarray
    target: np.ndarray
    n_sources: int
    cell: np.ndarray
    request: np.ndarray


@dataclass(frozen=True)
class Group:
    """Calls whose rows follow one prefix (token ids, maybe none)."""

    prefix: Ids
    calls: list[Call]


@dataclass(frozen=True)
class Plan:
    """Everything to be computed for `n_requests` requests.

    Attributes:
        groups: in the order of computation.
        n_requests: R.
        n_tokens: tokens computed, prefixes included, padding not.
        n_naive: tokens that scoring each request by itself would take.
    """

    groups: list[Group]
    n_requests: int
    n_tokens: int
    n_naive: int

    @property
    def n_calls(self) -> int:
        return sum(len(group.calls) for group in self.groups)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that is computed."""
        digest = hashlib.sha256()
        for group in self.groups:
            digest.update(group.prefix.tobytes() + b"|")
            for call in group.calls:
                for array in vars(call).values():
                    digest.update(np.asarray(array).tobytes())
        return digest.hexdigest()


def plan(bundles: Sequence[Bundle], n_shards: int = 1, tokens: int = 1024) -> Plan:
    """Groups, packs and lays out all requests.

    Args:
        bundles: the requests, numbered from 0 without gaps.
        n_shards: W, devices over which the rows of a call are split.
        tokens: about how many tokens each device computes at once.
    """
    bundles = [part for bundle in bundles for part in _split(bundle)]
    made, n_tokens = [], 0
    for prefix_len, members in groups([_shared(bundle) for bundle in bundles]):
        blocks = [_block(bundles[i], prefix_len) for i in members]
        prefix = bundles[members[0]].contexts[0][:prefix_len]
        made.append(Group(prefix, list(_calls(blocks, n_shards, tokens))))
        n_tokens += prefix_len + sum(len(block.token) for block in blocks)
    pairs = [p for b in bundles for p in zip(b.contexts, b.continuations, strict=True)]
    n_naive = sum(len(context) + len(continuation) - 1 for context, continuation in pairs)
    return Plan(made, len(pairs), n_tokens, n_naive)


def _split(bundle: Bundle) -> Iterator[Bundle]:
    """Parts of as many requests as one position may predict."""
    for i in range(0, len(bundle.numbers), ARMS):
        part = slice(i, i + ARMS)
        yield Bundle(bundle.contexts[part], bundle.continuations[part], bundle.numbers[part])


def _shared(bundle: Bundle) -> Ids:
    """What a prefix may cover: common to all contexts, and one token short of the shortest."""
    first, *others = bundle.contexts
    n = min([len(first) - 1, *(len(c) - 1 for c in others), *(_common(first, c) for c in others)])
    return first[:n]


def _common(a: Ids, b: Ids) -> int:
    """Tokens that two sequences begin with alike."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def groups(sequences: Sequence[Ids]) -> list[tuple[int, list[int]]]:
    """Splits sequences into groups of one prefix each, saving the most tokens.

    Sorted sequences are joined from the longest common prefix down; a joined stretch becomes one
    group where this saves more than its parts do, which is optimal for one level of sharing.

    Returns:
        (prefix length, indices of the members); what shares too little comes last, under 0.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].astype(">i4").tobytes())
    common = [_common(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    # A stretch of the order, kept at both of its ends: (first, last, saved, its groups).
    ends: dict[int, tuple[int, int, int, tuple[tuple[int, int, int], ...]]]
    ends = {i: (i, i, 0, ()) for i in range(len(order))}
    for i in sorted(range(len(common)), key=lambda i: -common[i]):
        left, right = ends[i], ends[i + 1]
        first, last = left[0], right[1]
        together = (last - first) * common[i] - _GROUP_COST
        if together > left[2] + right[2]:
            joined = (first, last, together, ((common[i], first, last),))
        else:
            joined = (first, last, left[2] + right[2], left[3] + right[3])
        ends[first] = ends[last] = joined
    found = [(n, order[first : last + 1]) for n, first, last in (ends[0][3] if ends else ())]
    alone = set(order).difference(*(members for _, members in found))
    return [*found, (0, sorted(alone))] if alone else found


def _block(bundle: Bundle, prefix_len: int) -> Block:
    contexts, continuations = bundle.contexts, bundle.continuations
    shared = min(_common(contexts[0], context) for context in contexts)
    n = shared - prefix_len
    token, position, segment = [contexts[0][prefix_len:shared]], [np.arange(n)], [np.zeros(n, int)]
    source, target, request, start = [], [], [], n
    for k, (context, continuation) in enumerate(zip(contexts, continuations, strict=True)):
        own = np.concatenate([context[shared:], continuation[:-1]])
        token.append(own)
        position.append(n + np.arange(len(own)))
        segment.append(np.full(len(own), k + 1))
        path = np.concatenate([np.arange(n), start + np.arange(len(own))])
        source.append(path[-len(continuation) :])
        target.append(continuation)
        request.append(np.full(len(continuation), bundle.numbers[k]))
        start += len(own)
    at = prefix_len + np.concatenate(position)
    parts = (np.concatenate(part) for part in (token, segment, source, target, request))
    token, segment, *cells = (part.astype(np.int32) for part in parts)
    return Block(token, at.astype(np.int32), segment, *cells)


def _calls(blocks: Sequence[Block], n_shards: int, tokens: int) -> Iterator[Call]:
    """Rows of two lengths at most: one for most blocks, one for those that are longer."""
    lengths = np.array([len(block.token) for block in blocks])
    longest = _fitting(lengths.max(), _ROW_LENGTHS)

    def packed(usual: int) -> list[tuple[int, int, list[list[int]]]]:
        found = []
        for row_len, chosen in ((usual, lengths <= usual), (longest, lengths > usual)):
            if chosen.any():
                at_once = n_shards * math.ceil(tokens / row_len)
                found.append(
                    (row_len, at_once, best_fit(np.flatnonzero(chosen).tolist(), lengths, row_len))
                )
        return found

    def cost(shapes: list[tuple[int, int, list[list[int]]]]) -> float:
        return sum(
            math.ceil(len(rows) / at_once) * at_once * row_len * (1 + row_len / _ATTENTION)
            for row_len, at_once, rows in shapes
        )

    tried = [packed(usual) for usual in _ROW_LENGTHS if usual < longest] + [packed(longest)]
    for row_len, at_once, rows in min(tried, key=cost):
        for i in range(0, len(rows), at_once):
            members = [[blocks[j] for j in row] for row in rows[i : i + at_once]]
            yield _call(members, (at_once, row_len), n_shards)


def _fitting(length: float, sizes: Sequence[int]) -> int:
    """The smallest of the sizes that holds a length; beyond them, a multiple of the largest."""
    return next((s for s in sizes if s >= length), math.ceil(length / sizes[-1]) * sizes[-1])


def prefix_length(n: int) -> int:
    """What a prefix of n tokens is padded to."""
    return _fitting(n, _PREFIX_LENGTHS)


def best_fit(chosen: Sequence[int], lengths: np.ndarray, row_len: int) -> list[list[int]]:
    """Rows of the chosen blocks: the longest first, into the fullest row that still holds it."""
    rows: list[list[int]] = []
    space: dict[int, list[int]] = {}  # free tokens -> rows
    for i in sorted(chosen, key=lambda i: -lengths[i]):
        free = min((s for s in space if s >= lengths[i]), default=None)
        if free is None:
            rows.append([])
            row, free = len(rows) - 1, row_len
        else:
            row = space[free].pop()
            if not space[free]:
                del space[free]
        rows[row].append(i)
        space.setdefault(free - lengths[i], []).append(row)
    return rows


def _call(rows: Sequence[Sequence[Block]], shape: tuple[int, int], n_shards: int) -> Call:
    token, position, segment = (np.zeros(shape, np.int32) for _ in range(3))
    block = np.full(shape, -1, np.int32)
    source, target, request = [], [], []
    for row, members in enumerate(rows):
        at = 0
        for k, member in enumerate(members):
            span = slice(at, at + len(member.token))
            token[row, span], position[row, span] = member.token, member.position
            segment[row, span], block[row, span] = member.segment, k
            source.append(row * shape[1] + at + member.source)
            target.append(member.target)
            request.append(member.request)
            at = span.stop
    return Call(
        token, position, segment, block,
        *_cells(np.concatenate(source), np.concatenate(target), token.size // n_shards, n_shards),
        np.concatenate(request),
    )  # fmt: skip


def _cells(
    source: np.ndarray, target: np.ndarray, per_shard: int, n_shards: int
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """`source`, `target`, `n_sources` and `cell` of a call, from its cells in any order."""
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
    return sources, targets, int(place.max()) + 1, cell
