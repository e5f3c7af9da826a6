"""Requests packed into rows of few static shapes, so that what they share is computed once.

Bundles whose contexts begin alike form a group: the keys and values of that prefix are computed
once.  The rest of a bundle is a block, a tree of tokens in depth-first order: the rest of the
shared context is its trunk, and choices branch off where they first differ.  A token sees the
prefix and its ancestors: token j is an ancestor of i if j <= i < end[j].  Blocks are packed
best-fit into rows, rows into calls.  The last token of a continuation predicts nothing and is left
out.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ladder_jax.eval.calls import ARMS, Call, Rows, TokenBlock, lay_out
from ladder_jax.eval.requests import Bundle, Ids

_ROW_LENGTHS = (128, 256, 512, 1024, 2048)
_PREFIX_LENGTHS = (64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048)
_FEW_LENGTHS = (256, 512, 1024, 2048)  # of prefixes, where many groups would compile many programs
_FEW = 3  # groups that may have a padded prefix length each
_GROUP_COST = 512  # tokens: what a group costs beside its prefix, in unfilled calls
_ATTENTION = 1500  # tokens of a row at which attention costs as much as all else


@dataclass(frozen=True)
class Group:
    """Calls whose rows follow one prefix.

    Attributes:
        prefix: token ids; may be empty.
        length: what the prefix is padded to.
        calls: in the order of computation.
    """

    prefix: Ids
    length: int
    calls: list[Call]


@dataclass(frozen=True)
class Plan:
    """All calls for a set of requests.

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
        """SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for group in self.groups:
            digest.update(group.prefix.tobytes() + b"|%d|" % group.length)
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
    found = groups([_shared(bundle) for bundle in bundles])
    blocks = [[_block(bundles[i], n) for i in members] for n, members in found]
    prefixes = [bundles[members[0]].contexts[0][:n] for n, members in found]
    lengths = _FEW_LENGTHS if len(found) > _FEW else _PREFIX_LENGTHS
    made = [
        Group(prefix, _fitting(len(prefix), lengths), [lay_out(rows, n_shards) for rows in calls])
        for prefix, calls in zip(prefixes, _packed(blocks, n_shards, tokens), strict=True)
    ]
    n_tokens = sum(map(len, prefixes)) + sum(len(b.token) for some in blocks for b in some)
    pairs = [p for b in bundles for p in zip(b.contexts, b.continuations, strict=True)]
    n_naive = sum(len(context) + len(continuation) - 1 for context, continuation in pairs)
    return Plan(made, len(pairs), n_tokens, n_naive)


def _split(bundle: Bundle) -> Iterator[Bundle]:
    """Parts of a bundle, each of no more requests than one position may predict."""
    for i in range(0, len(bundle.numbers), ARMS):
        part = slice(i, i + ARMS)
        yield Bundle(bundle.contexts[part], bundle.continuations[part], bundle.numbers[part])


def _shared(bundle: Bundle) -> Ids:
    """The longest prefix that a bundle allows: common to all contexts, and shorter than each."""
    first, *others = bundle.contexts
    n = min([len(first) - 1, *(len(c) - 1 for c in others), *(_common(first, c) for c in others)])
    return first[:n]


def _common(a: Ids, b: Ids) -> int:
    """The length of the longest common prefix of two sequences."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


class Members(NamedTuple):
    """Sequences that share a prefix: its length, and their indices."""

    prefix_len: int
    indices: list[int]


class _Stretch(NamedTuple):
    """Neighbours in the sorted order, `first` to `last`, and the groups that they form so far."""

    first: int
    last: int
    saved: int  # tokens
    groups: tuple[tuple[int, int, int], ...]  # prefix length, first, last


def groups(sequences: Sequence[Ids]) -> list[Members]:
    """Splits sequences into groups of one prefix each, saving the most tokens.

    Sorted sequences are joined from the longest common prefix down; a joined stretch becomes one
    group where this saves more than its parts do, which is optimal for one level of sharing.

    Returns:
        The groups; sequences that share too little come last, with prefix length 0.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].astype(">i4").tobytes())
    common = [_common(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    ends = {i: _Stretch(i, i, 0, ()) for i in range(len(order))}  # each kept at both of its ends
    for i in sorted(range(len(common)), key=lambda i: -common[i]):
        left, right = ends[i], ends[i + 1]
        first, last, apart = left.first, right.last, left.saved + right.saved
        together = (last - first) * common[i] - _GROUP_COST
        if together > apart:
            joined = _Stretch(first, last, together, ((common[i], first, last),))
        else:
            joined = _Stretch(first, last, apart, left.groups + right.groups)
        ends[first] = ends[last] = joined
    stretches = ends[0].groups if ends else ()
    found = [Members(n, order[first : last + 1]) for n, first, last in stretches]
    alone = set(order).difference(*(members for _, members in found))
    return [*found, Members(0, sorted(alone))] if alone else found


def _block(bundle: Bundle, prefix_len: int) -> TokenBlock:
    """The tree of a bundle's requests, which are sorted: each adds its unshared tokens."""
    ordered = sorted(
        zip(bundle.contexts, bundle.continuations, bundle.numbers, strict=True),
        key=lambda r: np.concatenate([r[0], r[1][:-1]]).astype(">i4").tobytes(),
    )
    token, position, cells = [], [], []
    end = np.zeros(sum(len(a) - prefix_len + len(b) - 1 for a, b, _ in ordered), int)
    last, path, size = np.zeros(0, np.int32), np.zeros(0, int), 0  # path: indices of last's tokens
    for context, continuation, number in ordered:
        own = np.concatenate([context[prefix_len:], continuation[:-1]])
        n = _common(last, own)
        end[path[n:]] = size
        token.append(own[n:])
        position.append(prefix_len + np.arange(n, len(own)))
        path = np.concatenate([path[:n], np.arange(size, size + len(own) - n)])
        cells.append((path[-len(continuation) :], continuation, np.full(len(continuation), number)))
        last, size = own, size + len(own) - n
    end[path] = size
    source, target, request = (np.concatenate(part) for part in zip(*cells, strict=True))
    parts = (np.concatenate(token), np.concatenate(position), end[:size], source, target, request)
    return TokenBlock(*(part.astype(np.int32) for part in parts))


def _packed(groups: Sequence[Sequence[TokenBlock]], n_shards: int, tokens: int) -> list[list[Rows]]:
    """The calls of every group, of two row lengths at most: most blocks fit the shorter one."""
    if not groups:
        return []
    longest = _fitting(max(len(b.token) for blocks in groups for b in blocks), _ROW_LENGTHS)

    def calls(blocks: Sequence[TokenBlock], usual: int) -> list[Rows]:
        made = []
        short = [len(block.token) <= usual for block in blocks]
        for row_len, wanted in ((usual, True), (longest, False)):
            chosen = [b for b, fits in zip(blocks, short, strict=True) if fits == wanted]
            rows = best_fit(chosen, row_len)
            shape = (n_shards * math.ceil(tokens / row_len), row_len)
            made += [Rows(rows[i : i + shape[0]], shape) for i in range(0, len(rows), shape[0])]
        return made

    def cost(every: list[list[Rows]]) -> float:
        shapes = (rows.shape for made in every for rows in made)
        return sum(n * row_len * (1 + row_len / _ATTENTION) for n, row_len in shapes)

    usual = [*(n for n in _ROW_LENGTHS if n < longest), longest]
    return min(([calls(blocks, n) for blocks in groups] for n in usual), key=cost)


def _fitting(length: float, sizes: Sequence[int]) -> int:
    """The smallest of the sizes that holds a length; beyond them, a multiple of the largest."""
    return next((s for s in sizes if s >= length), math.ceil(length / sizes[-1]) * sizes[-1])


def best_fit(blocks: Sequence[TokenBlock], row_len: int) -> list[list[TokenBlock]]:
    """Packs blocks into rows: the longest first, each into the fullest row that still holds it."""
    rows: list[list[TokenBlock]] = []
    space: dict[int, list[int]] = {}  # free tokens -> rows
    for block in sorted(blocks, key=lambda block: -len(block.token)):
        need = len(block.token)
        free = min((s for s in space if s >= need), default=None)
        if free is None:
            rows.append([])
            row, free = len(rows) - 1, row_len
        else:
            row = space[free].pop()
            if not space[free]:
                del space[free]
        rows[row].append(block)
        space.setdefault(free - need, []).append(row)
    return rows
