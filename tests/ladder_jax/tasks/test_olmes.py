"""Public tasks: labels, documents, MMLU's prompt, means, tokenizer, train text."""

import gzip
import json
import math

import pytest

from ladder_jax.config import DataConfig
from ladder_jax.data import sources
from ladder_jax.data.documents import Document as Text
from ladder_jax.data.tokenizer import find_tokenizer
from ladder_jax.downloads import public_tasks
from ladder_jax.tasks import mmlu, olmes
from ladder_jax.tasks.task import Question
from tests.helpers import fails
from tests.olmes_wheels import ARC, GSM, PIQA, WINO, arrow, publish, questions, tokenizer


@pytest.fixture(scope="module")
def dolma2(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("bpe"))


@pytest.fixture
def cached(tmp_path, monkeypatch, dolma2):
    """The two small wheels, downloaded."""
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(public_tasks, "WHEELS", publish(tmp_path / "wheels", dolma2))
    return public_tasks.olmes(tmp_path / "wheels")


def test_labels(cached):
    labels = olmes.labels()
    assert labels == sorted(set(labels))
    assert {x for x in labels if not x.startswith("mmlu")} == {
        "arc_easy_test_rc_5shot",
        "gsm8k_gold_bpb_5shot",
        "piqa_mute",
        "piqa_train_rc_5shot",
        "winogrande_train_rc_5shot",
        "winogrande_val_rc_5shot",
    }
    assert sum(x.startswith("mmlu") for x in labels) == (57 + 4) * 4
    fails(
        "task 'arc_easy_val_rc_5shot' is unknown: closest are arc_easy_test_rc_5shot",
        olmes.load,
        "arc_easy_val_rc_5shot",
    )
    fails("no label is similar; a task of your own ends in .jsonl", olmes.load, "#")
    fails("is a mean: load mmlu_stem_test_mc_5shot, ", olmes.load, "mmlu_avg_test_mc_5shot")


KINDS = {
    "arc_easy_test_rc_5shot": [Question(*row, unconditional="Answer:") for row in ARC],
    "piqa_mute": [Question(*row, unconditional="Answer:") for row in PIQA],
    "winogrande_val_rc_5shot": [Question(*row) for row in WINO],
    "gsm8k_gold_bpb_5shot": [Question(context, choices, 0) for context, choices, _ in GSM],
}


@pytest.mark.parametrize("label", KINDS)
@pytest.mark.parametrize("limit", [None, 1, 2, 9])
def test_documents_of_each_kind(cached, label, limit):
    task = olmes.load(label, limit)
    assert (task.name, list(task.documents)) == (label, KINDS[label][:limit])


def test_a_limit_reads_no_further_and_a_users_task_has_one_too(cached, tmp_path):
    path = cached / "requests" / "arc_easy" / "test_rc_5shot" / "requests.jsonl.gz"
    rows = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(rows[:4]) + b"cut"))
    assert (
        list(olmes.load("arc_easy_test_rc_5shot", 1).documents)
        == KINDS["arc_easy_test_rc_5shot"][:1]
    )
    fails(r"requests.jsonl.gz: row 5: no request", olmes.load, "arc_easy_test_rc_5shot", 2)
    own = tmp_path / "own.jsonl"
    own.write_text('{"context": "a", "choices": [" b"], "gold": 0}\n' * 3)
    assert len(olmes.load(str(own), 2).documents) == 2
    fails("limit is 0", olmes.load, str(own), 0)


ROW = {"request": {"context": "a", "continuation": " b"}, "doc_id": 0, "idx": 0, "label": 0}
WRONG = {
    "no JSON": (b"{", "row 2: no request"),
    "doc_id": (ROW | {"doc_id": "1"}, "row 2: field 'doc_id' is no int"),
    "idx": (ROW, "row 2: choice 0 of document 0, label 0: expected choice 1, label 0"),
    "label": (ROW | {"idx": 1, "label": 1}, "row 2: choice 1 of document 0, label 1: expected"),
    "gold": (ROW | {"doc_id": 1, "label": 1}, "row 2: gold index 1 for 1 choices"),
    "text": (
        ROW | {"doc_id": 1, "request": {"context": "", "continuation": ""}},
        "row 2: an empty",
    ),
    "cut": (None, "cannot be read to its end"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_content_is_named(cached, kind):
    second, line = WRONG[kind]
    path = cached / "requests" / "winogrande" / "val_rc_5shot" / "requests.jsonl.gz"
    second = second if isinstance(second, bytes) else json.dumps(second).encode()
    content = gzip.compress(json.dumps(ROW).encode() + b"\n" + second + b"\n")
    path.write_bytes(content[:-12] if kind == "cut" else content)
    fails(f"requests.jsonl.gz: {line}.*run: ladder download", olmes.load, "winogrande_val_rc_5shot")


RC = """The following are multiple choice questions (with answers) about abstract algebra:

Question: abstract_algebra 0?
Answer: w0

Question: abstract_algebra 1?
Answer: x1

Question: abstract_algebra 2?
Answer: y2

Question: abstract_algebra 3?
Answer: z3

Question: abstract_algebra 4?
Answer: w4

Question: abstract_algebra 1?
Answer:"""
MC = """The following are multiple choice questions (with answers) about abstract algebra:

abstract_algebra 0?
A. w0
B. x0
C. y0
D. z0
Answer: A

abstract_algebra 1?
A. w1
B. x1
C. y1
D. z1
Answer: B

abstract_algebra 2?
A. w2
B. x2
C. y2
D. z2
Answer: C

abstract_algebra 3?
A. w3
B. x3
C. y3
D. z3
Answer: D

abstract_algebra 4?
A. w4
B. x4
C. y4
D. z4
Answer: A

abstract_algebra 1?
A. w1
B. x1
C. y1
D. z1
Answer:"""


def test_the_prompt_of_mmlu_to_the_letter(cached):
    rc = olmes.load("mmlu_abstract_algebra_test_rc_5shot").documents[1]
    assert rc == Question(RC, (" w1", " x1", " y1", " z1"), 1)
    mc = olmes.load("mmlu_abstract_algebra_test_mc_5shot").documents[1]
    assert mc == Question(MC, (" A", " B", " C", " D"), 1)
    assert len(olmes.load("mmlu_abstract_algebra_val_rc_5shot").documents) == 1


def test_a_group_of_mmlu_is_its_subjects_in_order(cached):
    group = olmes.load("mmlu_social_sciences_test_rc_5shot").documents
    one_by_one = [
        document
        for subject in mmlu.GROUPS["social_sciences"]
        for document in olmes.load(f"mmlu_{subject}_test_rc_5shot").documents
    ]
    assert list(group) == one_by_one
    assert len(olmes.load("mmlu_social_sciences_test_rc_5shot", 3).documents) == 3
    fails(r"astronomy.dev.arrow: cannot be read", olmes.load, "mmlu_stem_test_rc_5shot")
    assert len(mmlu.SUBJECTS) == 57
    bad = cached / "mmlu" / "sociology" / "test.arrow"
    bad.write_bytes(arrow([questions("sociology", 1)[0] | {"answer": 4}]))
    fails("test.arrow: row 1: field 'answer' is 4", olmes.load, "mmlu_sociology_test_rc_5shot")


def test_means_and_their_standard_errors():
    mean = "mmlu_avg_test_rc_5shot"
    parts = olmes.expand(["piqa_val_rc_5shot", mean, "mmlu_stem_test_rc_5shot"])
    assert parts == [
        "piqa_val_rc_5shot",
        "mmlu_stem_test_rc_5shot",
        "mmlu_humanities_test_rc_5shot",
        "mmlu_social_sciences_test_rc_5shot",
        "mmlu_other_test_rc_5shot",
    ]
    assert olmes.composites(parts) == [mean]
    assert olmes.composites(parts[:-1]) == []
    values = {label: {"acc": i / 10, "bpb": 1.0} for i, label in enumerate(parts)}
    values[parts[-1]].pop("bpb")
    got = olmes.combine(values, [mean, parts[0]])
    assert got == {
        mean: {"acc": pytest.approx(0.0215 + 0.067 + 0.0657 + 0.0924)},
        parts[0]: values[parts[0]],
    }
    errors = olmes.combine(values, [mean], errors=True)
    assert errors[mean]["acc"] == pytest.approx(
        math.sqrt(0.0215**2 + 0.067**2 + 0.0657**2 + 0.0924**2)
    )
    assert olmes.combine({mean: {"acc": 0.5}}, [mean]) == {mean: {"acc": 0.5}}
    fails("needs values of 'mmlu_stem_test_rc_5shot'", olmes.combine, {}, [mean])
    assert sum(mmlu.WEIGHTS.values()) == pytest.approx(1)


def test_tokenizer(cached, dolma2, tmp_path):
    public = find_tokenizer("dolma2")
    assert public.get_vocab_size() == 300
    assert 0 not in public.encode("<|endoftext|>").ids
    (tmp_path / "tokenizer.json").write_bytes(dolma2)
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        assert find_tokenizer(str(name)).to_str() == public.to_str()
    fails("no such tokenizer", find_tokenizer, "dolma3")
    (tmp_path / "tokenizer.json").write_text("{}")
    fails("tokenizer.json: no tokenizer of the package", find_tokenizer, str(tmp_path))


def test_train_text_is_the_question_and_its_right_answer(cached):
    every = list(sources.SOURCES["olmes_train"](DataConfig(source="olmes_train")))
    assert every == [
        Text("piqa_train_rc_5shot:0", "Question: t0?\nAnswer: no", "piqa"),
        Text("piqa_train_rc_5shot:1", "Question: t1?\nAnswer: yes", "piqa"),
        Text("piqa_train_rc_5shot:2", "Question: t1?\nAnswer: yes", "piqa"),
        Text("winogrande_train_rc_5shot:0", "Of 1 Bob ran.", "winogrande"),
        Text("winogrande_train_rc_5shot:1", "Of 0 Ann ran.", "winogrande"),
    ]
    some = DataConfig(source="olmes_train", path="winogrande, piqa,piqa")
    assert list(sources.SOURCES["olmes_train"](some)) == every[3:] + every[:3]
    wrong = DataConfig(source="olmes_train", path="piqa,boolq")
    fails("'boolq' is no train split: use piqa, winogrande", sources.load, wrong)


COUNTS = {
    "hellaswag_val_rc_5shot": 10_042,
    "arc_challenge_test_rc_5shot": 1_172,
    "arc_easy_test_rc_5shot": 2_376,
    "piqa_val_rc_5shot": 1_838,
    "csqa_val_rc_5shot": 1_221,
    "socialiqa_val_rc_5shot": 1_954,
    "openbookqa_test_rc_5shot": 500,
}


def test_the_public_data():
    if not public_tasks.olmes_dir().is_dir():
        pytest.skip("no public tasks in the cache: ladder download olmes")
    assert len(olmes.labels()) == 135 + (57 + 4) * 4
    for label, count in COUNTS.items():
        task = olmes.load(label)
        assert len(task.documents) == count
        assert list(olmes.load(label, 5).documents) == list(task.documents[:5])
    groups = (olmes.load(f"mmlu_{group}_test_rc_5shot") for group in mmlu.GROUPS)
    assert sum(len(group.documents) for group in groups) == 14_042
    assert find_tokenizer("dolma2").get_vocab_size() == 100_278
    assert len(olmes.train_tasks()) == 9
