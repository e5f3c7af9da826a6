"""Our models in the lm-evaluation-harness: its results equal ours, and those of torch."""

# ruff: noqa: E402 (imports follow the check that the harness is there)

import json
import os
import subprocess
import sys

os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when it is imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from fitting.errors import InputError
from ladder_jax import hf
from ladder_jax.config import ModelConfig
from ladder_jax.data import documents as documents_
from ladder_jax.data.tokenizer import END_OF_TEXT, train_bpe
from ladder_jax.eval import harness, metrics, scoring
from ladder_jax.eval.harness import HarnessLM
from ladder_jax.models import decoder
from ladder_jax.tasks.task import Question, Task
from tests.helpers import story

WINDOW = 96
MODEL = ModelConfig(
    d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_size=320, seq_len=WINDOW, init_std=0.0
)
WORDS = ("fox", "owl", "naïve 我们", "a lazy dog", "hum", "the cat sat", "over")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    documents = [documents_.Document(str(i), story(i)) for i in range(8)]
    return train_bpe(documents, 300, tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def params():
    fresh = decoder.init_params(MODEL, jax.random.key(0))
    return fresh | {"head": 2 * fresh["head"]}  # far from uniform


@pytest.fixture(scope="module")
def lm(params, tokenizer):
    return HarnessLM(MODEL, params, tokenizer)


@pytest.fixture(scope="module")
def saved(params, tokenizer, tmp_path_factory):
    """The directory of the model, tokenizer included."""
    home = tmp_path_factory.mktemp("hf")
    tokenizer.save(str(home / "tokenizer.json"))
    hf.write(home / "model", MODEL, params, home / "tokenizer.json")
    return home / "model"


@pytest.fixture(scope="module")
def task():
    """Forty questions of two to four choices, some of them equal."""
    rng = np.random.default_rng(0)
    documents = []
    for i in range(40):
        chosen = tuple(str(w) for w in rng.choice(WORDS, int(rng.integers(2, 5))))
        context = f"Question: {story(i % 30, 8)}?\nAnswer:"
        documents.append(
            Question(context, tuple(f" {w}" for w in chosen), int(rng.integers(len(chosen))))
        )
    return Task("made_up", documents)


def instances(pairs):
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]


def pairs_of(task):
    return [(d.context, choice) for d in task.documents for choice in d.choices]


@jax.jit
def log_probabilities(params, row):
    return jax.nn.log_softmax(decoder.bind(MODEL, params)(row[None])[0], axis=-1)


def plain(params, context, continuation):
    """Log-likelihood of each token, and whether it is the likeliest; one row, all logits."""
    ids = [*context, *continuation[:-1]]
    logs = log_probabilities(params, jnp.array(ids + [0] * (WINDOW - len(ids))))
    logs = np.asarray(logs)[len(context) - 1 : len(ids)]
    gold = logs[np.arange(len(continuation)), continuation].astype(float)
    return gold, logs.argmax(axis=-1) == continuation


def encoded(tokenizer, pairs):
    return [tuple(tokenizer.encode(text).ids for text in pair) for pair in pairs]


def test_loglikelihoods_are_those_of_a_plain_scorer_and_ours(lm, params, tokenizer, task):
    pairs = pairs_of(task)
    found = np.array([x for x, _ in lm.loglikelihood(instances(pairs), disable_tqdm=True)])
    ids = encoded(tokenizer, pairs)
    n_tokens = np.array([len(continuation) for _, continuation in ids])
    expected = np.array([plain(params, *pair)[0].sum() for pair in ids])
    assert np.abs((found - expected) / n_tokens).max() < 1e-5
    store = scoring.score(MODEL, params, scoring.prepare([task], tokenizer, WINDOW))
    assert np.abs((found - store["loglik"]) / n_tokens).max() < 1e-5
    assert np.ptp(expected / n_tokens) > 3  # of choices that differ


def test_greedy_is_when_every_token_is_the_likeliest(lm, params, tokenizer):
    context = tokenizer.encode(story(3, 12)).ids
    best = []
    for _ in range(3):  # greedy decoding
        best.append(next(i for i in range(320) if plain(params, context, [*best, i])[1].all()))
    off = [*best[:2], (best[2] + 1) % 300]
    asked = [(None, context, ids) for ids in (best, off, best[:1], off[2:])]
    greedy = [g for _, g in lm._loglikelihood_tokens(asked, disable_tqdm=True)]
    assert greedy == [True, False, True, plain(params, context, off[2:])[1].all()]


def test_order_and_repeats_change_nothing(lm, task):
    pairs = [*pairs_of(task), *pairs_of(task)[:7]]
    first = lm.loglikelihood(instances(pairs), disable_tqdm=True)
    order = np.random.default_rng(1).permutation(len(pairs))
    again = lm.loglikelihood(instances([pairs[i] for i in order]), disable_tqdm=True)
    assert [first[i] for i in order] == again
    assert first[-7:] == first[:7]
    assert lm.loglikelihood([], disable_tqdm=True) == []


def test_long_inputs_lose_tokens_from_the_left_each_by_itself(lm, params, tokenizer):
    context = tokenizer.encode(story(0, 90)).ids
    assert len(context) > WINDOW
    asked = [(None, context, list(range(1, n + 1))) for n in (1, 30, WINDOW)]
    found = lm._loglikelihood_tokens(asked, disable_tqdm=True)
    for (_, _, continuation), (value, _) in zip(asked, found, strict=True):
        kept = (context + continuation)[-(WINDOW + 1) : -len(continuation)]
        gold = plain(params, kept, continuation)[0].sum()
        assert value == pytest.approx(gold, abs=1e-5 * len(continuation))
    with pytest.raises(InputError, match="97 tokens: between one and the window's 96"):
        lm._loglikelihood_tokens([(None, context, [1] * 97)])
    with pytest.raises(InputError, match="0 tokens"):
        lm._loglikelihood_tokens([(None, context, [])])


def test_without_context_the_end_of_text_token_comes_first(lm, params, tokenizer):
    end = tokenizer.token_to_id(END_OF_TEXT)
    ((value, _),) = lm.loglikelihood(instances([("", " fox jumps")]), disable_tqdm=True)
    gold = plain(params, [end], tokenizer.encode(" fox jumps").ids)[0].sum()
    assert value == pytest.approx(gold, abs=1e-4)


def test_rolling_is_the_sum_over_tokens(lm, params, tokenizer):
    """Every token is scored once, after as much context as fits; the last window is full."""
    texts = ["the quick fox", story(5, 150), "", "the quick fox"]
    asked = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    found = lm.loglikelihood_rolling(asked, disable_tqdm=True)
    for text, value in zip(texts, found, strict=True):
        ids = [tokenizer.token_to_id(END_OF_TEXT), *tokenizer.encode(text).ids]
        total, done = 0.0, 1
        while done < len(ids):
            end = min(done + WINDOW, len(ids))
            start = max(0, end - 1 - WINDOW)
            total += plain(params, ids[start:done], ids[done:end])[0].sum()
            done = end
        assert value == pytest.approx(total, abs=1e-5 * len(ids))
    assert len(tokenizer.encode(texts[1]).ids) > 2 * WINDOW


def test_generation_and_wrong_arguments_are_refused(lm, saved, params, tokenizer):
    with pytest.raises(NotImplementedError, match="only log-likelihood tasks"):
        lm.generate_until([])
    with pytest.raises(InputError, match="hf is missing"):
        HarnessLM.create_from_arg_string("tokenizer=dolma2")
    with pytest.raises(InputError, match="'colour' is unknown: use hf, tokenizer"):
        HarnessLM.create_from_arg_obj({"hf": str(saved), "colour": 1})
    with pytest.raises(InputError, match="made for 96 tokens"):
        HarnessLM(MODEL, params, tokenizer, window=97)


def written(task, path):
    """The task in the harness's form: its data as JSON lines, and its configuration."""
    rows = [
        {"query": d.context, "words": [c[1:] for c in d.choices], "gold": d.gold}
        for d in task.documents
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(path.parent)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "words",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }


@pytest.fixture(scope="module")
def expected(params, tokenizer, task):
    store = scoring.score(MODEL, params, scoring.prepare([task], tokenizer, WINDOW))
    return metrics.of_task(store)


def test_a_task_of_the_harness_has_our_accuracies(lm, expected, task, tmp_path):
    config = written(task, tmp_path / "data.jsonl")
    manager = TaskManager(include_defaults=False)
    found = lm_eval.simple_evaluate(lm, tasks=[config], task_manager=manager, bootstrap_iters=0)
    found = found["results"]["made_up"]
    assert found["acc,none"] == pytest.approx(expected["acc"])
    assert found["acc_norm,none"] == pytest.approx(expected["acc_per_char"])
    assert 0 < expected["acc"] != expected["acc_per_char"] > 0  # the two metrics differ


def test_the_command_line_knows_our_models(saved, expected, task, tmp_path):
    config = written(task, tmp_path / "data.jsonl")
    (tmp_path / "made_up.yaml").write_text(json.dumps(config))  # JSON is YAML

    command = [sys.executable, "-m", "ladder_jax.eval.harness", "--model", "ladder"]
    command += ["--model_args", f"hf={saved}", "--tasks", "made_up"]
    command += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out.json")]
    env = os.environ | {"LADDER_CACHE": str(tmp_path / "cache"), "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    (out,) = tmp_path.rglob("out*.json")
    found = json.loads(out.read_text())["results"]["made_up"]
    assert found["acc,none"] == pytest.approx(expected["acc"])
    assert found["acc_norm,none"] == pytest.approx(expected["acc_per_char"])


def test_the_command_line_ends_with_one_line(monkeypatch):
    def refuse():
        raise InputError("no such directory")

    monkeypatch.setattr(harness, "cli_evaluate", refuse)
    monkeypatch.setattr(harness.compilation, "keep", lambda cache: None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    with pytest.raises(SystemExit, match=r"^python -m ladder_jax.eval.harness: no such directory$"):
        harness.main()


def test_the_harness_on_torch_agrees(saved, task):
    """Our model with the rows of a batch split over all devices."""
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    lm = HarnessLM.from_hf(str(saved))
    theirs = HFLM(str(saved), device="cpu", dtype="float32", batch_size=4)
    pairs = pairs_of(task)
    ours = lm.loglikelihood(instances(pairs), disable_tqdm=True)
    torchs = theirs.loglikelihood(instances(pairs), disable_tqdm=True)
    for (_, choice), (a, a_greedy), (b, b_greedy) in zip(pairs, ours, torchs, strict=True):
        assert a == pytest.approx(b, abs=1e-5 * len(choice.encode()))
        assert a_greedy == b_greedy
    long = [Instance("loglikelihood_rolling", {}, (story(5, 150),), 0)]
    (a,), (b,) = (model.loglikelihood_rolling(long, disable_tqdm=True) for model in (lm, theirs))
    assert a == pytest.approx(b, rel=1e-5)
