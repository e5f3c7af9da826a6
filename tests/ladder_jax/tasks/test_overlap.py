"""Overlap of tasks with training text: compared with a plain search, and what must not count."""

import re

import numpy as np
import pytest

from fitting.errors import InputError
from ladder_jax.tasks import mmlu
from ladder_jax.tasks import overlap as module
from ladder_jax.tasks.overlap import overlap
from ladder_jax.tasks.task import Question, Task

PASSAGE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
SHOTS = f"Question: {PASSAGE} fifteen?\nAnswer: sixteen\n\n"


def counts(table):
    return table[["n_documents", "n_checked", "n_overlapping"]].to_numpy().tolist()


def task(*questions, shots="", answer=" right"):
    documents = [
        Question(f"{shots}Question: {q}\nAnswer:", (" wrong", answer), 1) for q in questions
    ]
    return Task("t", documents)


def test_case_and_punctuation_do_not_matter_but_order_does():
    ask = task(PASSAGE, "too short", " ".join(PASSAGE.split()[::-1]))
    texts = [f"Before. {PASSAGE.upper().replace(' ', ', ')}; after"]
    table = overlap([ask], texts)
    assert counts(table) == [[3, 2, 1]]
    assert table["share"].tolist() == [0.5]
    assert counts(overlap([ask], [])) == [[3, 2, 0]]
    words = PASSAGE.split()
    assert counts(overlap([ask], [" ".join(words[:7]), " ".join(words[7:])])) == [[3, 2, 0]]
    assert counts(overlap([ask], [" ".join(words[:12])])) == [[3, 2, 0]]  # twelve are not enough


def test_shared_examples_do_not_count():
    questions = [f"alpha {i} beta gamma delta epsilon zeta eta theta iota" for i in range(3)]
    text = [SHOTS]
    assert counts(overlap([task(*questions, shots=SHOTS)], text)) == [[3, 3, 0]]
    assert counts(overlap([task(PASSAGE, *questions, shots=SHOTS)], text)) == [[4, 4, 1]]
    headers = [f"{mmlu.HEADER}{s}:\n\n" for s in ("law", "art")]  # a prefix a subject
    documents = [
        Question(f"{header}{s} {SHOTS}{q}\nAnswer:", (" a",), 0)
        for s, header in enumerate(headers)
        for q in questions
    ]
    assert counts(overlap([Task("group", documents)], text)) == [[6, 6, 0]]


def test_short_documents_are_compared_whole_and_shorter_ones_not_at_all():
    ask = task("a b c d e f g", "a b c d e f")  # eight and seven words with the answer
    assert counts(overlap([ask], ["x a b c d e f g right y"])) == [[2, 1, 1]]
    assert counts(overlap([ask], ["Question: a b c d e f g\nAnswer: right"])) == [[2, 1, 1]]
    assert counts(overlap([ask], ["a b c d e f g wrong"])) == [[2, 1, 0]]
    table = overlap([task("short")], ["short"])
    assert counts(table) == [[1, 0, 0]]
    assert table["share"].isna().all()
    with pytest.raises(InputError, match="`n` is 1: compare runs of 2 words or more"):
        overlap([ask], [], n=1)


def plain(documents, texts, n):
    """The share of documents, by a search for every run of words in every text."""
    found = checked = 0
    for document in documents:
        words = re.findall(r"[a-z0-9]+", document)
        length = min(n, len(words))
        if length < min(n, 8):
            continue
        checked += 1
        runs = {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}
        found += any(f" {run} " in f" {text} " for run in runs for text in texts)
    return [len(documents), checked, found]


@pytest.mark.parametrize("n", [3, 8, 13])
def test_against_a_plain_search(n, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 50)  # texts fall into many batches
    monkeypatch.setattr(module, "_FILTER_BITS", 4)  # and the filter lets much through
    rng = np.random.default_rng(n)
    texts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 80))) for _ in range(60)]
    tasks, expected = [], []
    for _ in range(3):
        own = [" ".join(rng.choice(list("abcdefghi"), rng.integers(2, 20))) for _ in range(40)]
        for i in range(0, 40, 4):
            copied = texts[rng.integers(60)]
            own[i] = copied[: len(copied) // 4 * 2 + 1][-40:].strip()
        tasks.append(Task("t", [Question(q, (" x",), 0) for q in own]))
        expected.append(plain([f"{q} x" for q in own], texts, n))
    got = counts(overlap(tasks, iter(texts), n))
    assert got == expected
    assert 0 < sum(row[2] for row in got) < sum(row[1] for row in got)
