"""Public tasks by label: the requests of the OLMo evaluations, MMLU, and means of tasks.

Labels are those of arXiv 2412.04403, such as `arc_challenge_test_rc_5shot`: task, split, format and
number of examples.  The format is `rc` (the text of an answer continues the question) or `mc` (its
letter does).  Scores differ from those of OLMES v0.1 (arXiv 2406.08446), which are the better of
the two formats on 1,000 documents.
"""

from __future__ import annotations

import difflib
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from fitting.errors import InputError
from ladder_jax.downloads.public_tasks import olmes_dir
from ladder_jax.tasks import mmlu
from ladder_jax.tasks.task import Question, Task, read_jsonl

Values = Mapping[str, Mapping[str, float]]  # label -> metric -> value

COMPOSITES = {
    f"mmlu_avg_{split}_{kind}_5shot": {
        f"mmlu_{group}_{split}_{kind}_5shot": weight for group, weight in mmlu.WEIGHTS.items()
    }
    for split in mmlu.SPLITS
    for kind in mmlu.KINDS
}  # label -> its parts and their weights

TRAIN = "_train_rc_5shot"  # ends the labels of train splits
UNCONDITIONAL = "Answer:"  # context of the scores of continuations without their question
_UNCONDITIONAL_FROM = 1_000_000  # least doc_id of requests that score a continuation alone
_AGAIN = "remove the folder that holds requests/ and run: ladder download olmes"
_MMLU = re.compile(r"mmlu_(.+)_(val|test)_(rc|mc)_5shot")


def labels() -> list[str]:
    """Labels that `load` accepts, sorted.

    Raises:
        InputError: the requests were not downloaded.
    """
    names = (*mmlu.GROUPS, *mmlu.SUBJECTS)
    ours = [f"mmlu_{n}_{s}_{k}_5shot" for n in names for s in mmlu.SPLITS for k in mmlu.KINDS]
    return sorted([*_folders(), *ours])


def train_tasks() -> list[str]:
    """Tasks that have a train split, labelled `{task}_train_rc_5shot`."""
    return [label.removesuffix(TRAIN) for label in _folders() if label.endswith(TRAIN)]


def load(label: str, limit: int | None = None) -> Task:
    """Loads a public task by its label, or a user's own task by the path of a `.jsonl` file.

    Args:
        label: one of `labels()`, or a path (see `tasks.task.read_jsonl`).
        limit: number of documents to keep, the first ones; None keeps all.

    Raises:
        InputError: the label is unknown, nothing was downloaded, or a file has wrong content.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: keep one document or more")
    if label.endswith(".jsonl"):
        task = read_jsonl(label)
        return Task(task.name, task.documents[:limit])
    if label in COMPOSITES:
        raise InputError(f"task {label!r} is a mean: load {', '.join(COMPOSITES[label])}")
    folders = _folders()
    match = _MMLU.fullmatch(label)
    if label in folders:
        documents = _requests(folders[label], limit)
    elif match and match[1] in (*mmlu.GROUPS, *mmlu.SUBJECTS):
        documents = islice(_mmlu(*match.groups()), limit)
    else:
        raise _unknown(label)
    return Task(label, list(documents))


def expand(labels: Iterable[str]) -> list[str]:
    """Labels with every mean replaced by its parts: in the same order, without duplicates."""
    return list(dict.fromkeys(chain.from_iterable(COMPOSITES.get(x, [x]) for x in labels)))


def composites(labels: Iterable[str]) -> list[str]:
    """The means whose parts are all among these labels."""
    given = set(labels)
    return [name for name, parts in COMPOSITES.items() if given >= set(parts)]


def combine(
    values: Values, wanted: Iterable[str], errors: bool = False
) -> dict[str, dict[str, float]]:
    """Values of the wanted labels; means are computed from the values of their parts.

    Args:
        values: label -> metric -> number.
        wanted: labels; a mean that `values` already contains is kept.
        errors: whether the numbers are standard errors of independent scores; that of a mean is
            then the root of the sum of (weight x error) squared.

    Returns:
        The wanted labels, each with its metrics; a mean has the metrics that all its parts have.

    Raises:
        InputError: a label or a part has no values.
    """
    combined = {}
    for label in wanted:
        parts = {label: 1.0} if label in values else COMPOSITES.get(label, {label: 1.0})
        absent = [part for part in parts if part not in values]
        if absent:
            raise InputError(f"task {label!r} needs values of {absent[0]!r}: score it first")
        first, *others = (values[part] for part in parts)
        metrics = [metric for metric in first if all(metric in other for other in others)]
        combined[label] = {
            metric: _mean([w * values[part][metric] for part, w in parts.items()], errors)
            for metric in metrics
        }
    return combined


def _mean(weighted: list[float], errors: bool) -> float:
    return math.hypot(*weighted) if errors else math.fsum(weighted)


def root() -> Path:
    """The directory of the downloaded requests and tokenizer.

    Raises:
        InputError: they were not downloaded.
    """
    found = olmes_dir()
    if not found.is_dir():
        raise InputError(f"{found}: the public tasks are not there; run: ladder download olmes")
    return found


def _folders() -> dict[str, Path]:
    """The folder of each label."""
    found = sorted((root() / "requests").glob("*/*/requests.jsonl.gz"))
    return {f"{path.parent.parent.name}_{path.parent.name}": path.parent for path in found}


def _unknown(label: str) -> InputError:
    known = [*labels(), *COMPOSITES]
    close = difflib.get_close_matches(label, known, n=3, cutoff=0.5)
    hint = f"closest are {', '.join(close)}" if close else "no label is similar"
    return InputError(f"task {label!r} is unknown: {hint}; a task of your own ends in .jsonl")


def _mmlu(name: str, split: str, kind: str) -> Iterator[Question]:
    for subject in mmlu.GROUPS.get(name, (name,)):
        yield from mmlu.documents(root() / "mmlu", subject, split, kind)


@dataclass(frozen=True)
class _Request:
    """A line of a request file: one continuation of one document."""

    row: int
    doc_id: int
    idx: int
    context: str
    continuation: str
    label: Any


def _requests(folder: Path, limit: int | None) -> list[Question]:
    """Documents of a request folder; the whole file is read only if that is necessary."""
    path = folder / "requests.jsonl.gz"
    unconditional = _declared(folder / "config.json")
    documents = []
    for doc_id, requests in groupby(_lines(path), lambda request: request.doc_id):
        if doc_id >= _UNCONDITIONAL_FROM:  # such requests are the last ones
            unconditional = next(requests).context
            break
        if len(documents) != limit:
            documents.append(_document(path, list(requests)))
        elif unconditional is not None:
            break
    return [replace(d, unconditional=unconditional or "") for d in documents]


def _declared(path: Path) -> str | None:
    """Unconditional context in a task's configuration: "" for none, None if it does not say."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["task_config"]
        metric = config.get("metric_kwargs")
        return None if metric is None else UNCONDITIONAL * bool(metric.get("uncond_docid_offset"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: no configuration of a task: {_AGAIN}") from None


def _lines(path: Path) -> Iterator[_Request]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as f:
            for row, line in enumerate(f, start=1):
                yield _request(path, row, line)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise InputError(f"{path}: cannot be read to its end ({e}): {_AGAIN}") from None


def _request(path: Path, row: int, line: str) -> _Request:
    try:
        fields = json.loads(line)
        texts = fields["request"]["context"], fields["request"]["continuation"]
        request = _Request(row, fields["doc_id"], fields["idx"], *texts, fields["label"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: row {row}: no request: {_AGAIN}") from None
    for field, kind in (("doc_id", int), ("idx", int), ("context", str), ("continuation", str)):
        if type(getattr(request, field)) is not kind:
            raise InputError(f"{path}: row {row}: field {field!r} is no {kind.__name__}: {_AGAIN}")
    return request


def _document(path: Path, requests: list[_Request]) -> Question:
    """Builds a document from its requests."""
    first = requests[0]
    for idx, request in enumerate(requests):
        if request.idx != idx or request.label != first.label:
            found = f"choice {request.idx} of document {request.doc_id}, label {request.label!r}"
            wanted = f"choice {idx}, label {first.label!r}"
            raise InputError(f"{path}: row {request.row}: {found}: expected {wanted}: {_AGAIN}")
    contexts = tuple(request.context for request in requests)
    context = contexts[0] if len(set(contexts)) == 1 else contexts
    choices = tuple(request.continuation for request in requests)
    document = Question(context, choices, _gold(first.label, len(choices)))
    if document.problem:
        raise InputError(f"{path}: row {first.row}: {document.problem}: {_AGAIN}")
    return document


def _gold(label: object, n_choices: int) -> int:
    """Index of the right choice (0 if there is one choice only); -1 if the label gives no index."""
    if type(label) is int:
        return label
    return 0 if n_choices == 1 else -1
