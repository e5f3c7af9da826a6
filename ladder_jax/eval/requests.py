"""Documents -> packed rows of few static shapes: a context once, its choices side by side.

A document's block is its context (segment 0) and its choices (segments 1, 2, ...), all of which
continue at the context's positions.  A token sees what precedes it in its block, of segment 0 or of
its own.  Context and continuation are tokenised apart and joined, as in the field's harnesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from fitting.table import InputError
from ladder_jax.eval.tasks import Task


@dataclass(frozen=True)
class Block:
    """One document's tokens, and what must be predicted where.

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
class Rows:
    """Packed rows; every array int32 of shape (M, T), padded with -1 (`token`: 0)."""

    token: np.ndarray
    position: np.ndarray
    block: np.ndarray
    segment: np.ndarray
    source: np.ndarray
    target: np.ndarray
    request: np.ndarray


def blocks_of(tasks: Sequence[Task], tokenizer: Tokenizer, row_len: int) -> list[Block]:
    """A block a document; requests are numbered through tasks, documents and choices.

    Raises:
        InputError: a document that is longer than a row.
    """
    blocks, number = [], 0
    for task in tasks:
        texts = [t for d in task.documents for t in (d.context, *d.choices)]
        ids = iter([e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)])
        for i, document in enumerate(task.documents):
            context, *choices = (next(ids) for _ in range(1 + len(document.choices)))
            block = _block(context, choices, number)
            if len(block.token) > row_len:
                raise InputError(
                    f"task {task.name!r}: document {i} has {len(block.token)} tokens, a row "
                    f"{row_len}: shorten its context"
                )
            blocks.append(block)
            number += len(choices)
    return blocks


def _block(context: list[int], choices: Sequence[list[int]], first: int) -> Block:
    n = len(context)
    token, position, segment = [context], [np.arange(n)], [np.zeros(n, int)]
    source, target, request, start = [], [], [], n
    for k, ids in enumerate(choices):
        token.append(ids)
        position.append(n + np.arange(len(ids)))
        segment.append(np.full(len(ids), k + 1))
        source.append(np.concatenate([[n - 1], start + np.arange(len(ids) - 1)]))
        target.append(ids)
        request.append(np.full(len(ids), first + k))
        start += len(ids)
    parts = (token, position, segment, source, target, request)
    return Block(*(np.concatenate(part).astype(np.int32) for part in parts))


def pack(blocks: Sequence[Block], row_len: int) -> Rows:
    """Best-fit decreasing: the longest block first, into the fullest row that still holds it."""
    order = sorted(range(len(blocks)), key=lambda i: -len(blocks[i].token))
    rows: list[list[int]] = []
    space: dict[int, list[int]] = {}  # free tokens -> rows
    for i in order:
        need = len(blocks[i].token)
        free = min((s for s in space if s >= need), default=None)
        if free is None:
            rows.append([])
            row, free = len(rows) - 1, row_len
        else:
            row = space[free].pop()
            if not space[free]:
                del space[free]
        rows[row].append(i)
        space.setdefault(free - need, []).append(row)
    arrays = {name: np.full((len(rows), row_len), -1, np.int32) for name in Rows.__annotations__}
    arrays["token"][:] = 0
    arrays["position"][:] = 0
    for row, members in enumerate(rows):
        at, cell = 0, 0
        for k, i in enumerate(members):
            block = blocks[i]
            span = slice(at, at + len(block.token))
            cells = slice(cell, cell + len(block.target))
            arrays["token"][row, span] = block.token
            arrays["position"][row, span] = block.position
            arrays["segment"][row, span] = block.segment
            arrays["block"][row, span] = k
            arrays["source"][row, cells] = block.source + at
            arrays["target"][row, cells] = block.target
            arrays["request"][row, cells] = block.request
            at, cell = span.stop, cells.stop
    return Rows(**arrays)
