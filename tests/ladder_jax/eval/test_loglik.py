"""The scorer: packed against plain, shared prefixes, truncation, resuming, sharding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import processors

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import MeshConfig, ModelConfig
from ladder_jax.data import documents as documents_
from ladder_jax.data.tokenizer import train_bpe
from ladder_jax.eval import loglik, packing, requests, scoring, store
from ladder_jax.models import decoder
from ladder_jax.tasks.task import Question, Task
from tests.helpers import story

MODEL = ModelConfig(
    d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, d_ff=64, vocab_size=304, seq_len=256,
    init_std=0.0,
)  # fmt: skip
SHOTS = story(50, 40) + " "
TASK = Task(
    "made up",
    [
        Question("the quick brown", (" fox jumps", " owls", " naïve 我们 hum"), 0, "Answer:"),
        Question("a lazy dog", (" over", " over"), 1, "Answer:"),  # identical choices
        Question(("over the fox", "over the"), (" a", " lazy dogs hum softly"), 1),
        Question(("under", "under the fox"), (" a", " a"), 1),  # a context that begins the other
        Question("again a choice", (" of", " two"), 0),
    ],
)
SHARED = Task(
    "shots",
    [
        Question(SHOTS + story(i, 5), (" fox", " " + story(i + 9, 3), " owls"), i % 3, "Answer:")
        for i in range(40)
    ],
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    documents = [documents_.Document(str(i), story(i)) for i in range(8)]
    return train_bpe(documents, 300, tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def params():
    fresh = decoder.init_params(MODEL, jax.random.key(0))
    return fresh | {"head": 4 * fresh["head"]}  # far from uniform


def plain(params, tokenizer, context, choice):
    """Log-likelihood and greediness of one choice alone, with logits at every token."""
    context, ids = tokenizer.encode(context).ids, tokenizer.encode(choice).ids
    inputs = np.zeros((1, MODEL.seq_len), np.int32)
    inputs[0, : len(context) + len(ids)] = context + ids
    logits = np.asarray(_logits(params, inputs)[0], np.float64)
    at = np.arange(len(context) - 1, len(context) + len(ids) - 1)
    logs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return logs[at, ids].sum(), bool((logits[at].argmax(-1) == ids).all())


@jax.jit
def _logits(params, inputs):
    return decoder.bind(MODEL, params)(inputs)


def every(task, params, tokenizer):
    return [
        plain(params, tokenizer, context, choice)[0]
        for document in task.documents
        for context, choice in zip(document.contexts, document.choices, strict=True)
    ]


def scored(tasks, params, tokenizer, **kwargs):
    return scoring.score(MODEL, params, scoring.prepare(tasks, tokenizer, 256, **kwargs))


def test_packed_scores_are_those_of_a_plain_scorer(params, tokenizer):
    found = scored([TASK, SHARED], params, tokenizer)
    expected = every(TASK, params, tokenizer) + every(SHARED, params, tokenizer)
    np.testing.assert_allclose(found["loglik"], expected, rtol=2e-6, atol=2e-5)
    apart = [plain(params, tokenizer, "Answer:", c)[0] for d in TASK.documents for c in d.choices]
    known = found["loglik_unconditional"].to_numpy()[: len(apart)]
    asked = np.repeat([True, True, False, False, False], [3, 2, 2, 2, 2])
    np.testing.assert_allclose(known[asked], np.array(apart)[asked], rtol=2e-6, atol=2e-5)
    assert np.isnan(known[~asked]).all()


def test_a_shared_beginning_is_computed_once(params, tokenizer):
    questions = scoring.prepare([SHARED], tokenizer, 256, unconditional=False)
    (group,) = questions.plan.groups
    shots = len(tokenizer.encode(SHOTS).ids)
    assert len(group.prefix) >= shots - 1
    assert questions.plan.n_tokens < questions.plan.n_naive / 8
    assert questions.plan.n_requests == len(questions.requests.conditional)


def test_identical_requests_are_scored_once(params, tokenizer):
    made = requests.of_tasks([TASK, TASK], tokenizer, 256, unconditional=False)
    assert made.conditional[3] == made.conditional[4]
    assert made.n_requests == 10  # of eleven in either task
    half = len(made.conditional) // 2
    assert (made.conditional[:half] == made.conditional[half:]).all()


def test_whether_each_token_was_the_likeliest(params, tokenizer):
    ids = tokenizer.encode("the quick brown").ids
    best = int(_logits(params, np.array([ids + [0] * (256 - len(ids))]))[0, len(ids) - 1].argmax())
    other = (best + 1) % 300
    bundle = requests.Bundle(
        (np.array(ids, np.int32),) * 2,
        (np.array([best], np.int32), np.array([other], np.int32)),
        (0, 1),
    )
    found = loglik.score(MODEL, params, packing.plan([bundle]))
    assert found.greedy.tolist() == [True, False]


def test_order_and_permutation_do_not_matter(params, tokenizer):
    ahead = scored([TASK], params, tokenizer)["loglik"].to_numpy()
    turned = Task("t", TASK.documents[::-1])
    behind = scored([turned], params, tokenizer)["loglik"].to_numpy()
    parts = np.split(behind, np.cumsum([len(d.choices) for d in turned.documents])[:-1])
    np.testing.assert_allclose(np.concatenate(parts[::-1]), ahead, rtol=2e-6, atol=2e-5)
    first = TASK.documents[0]
    for order in itertools.permutations(range(3)):
        choices = tuple(first.choices[i] for i in order)
        one = Task("t", [Question(first.context, choices, order.index(0))])
        got = scored([one], params, tokenizer)["loglik"].to_numpy()
        np.testing.assert_allclose(got, ahead[list(order)], rtol=2e-6, atol=2e-5)


def test_more_choices_than_one_position_may_predict(params, tokenizer):
    words = tuple(f" {a}{b}" for a in "abcdef" for b in "uvwxyz")
    task = Task("many", [Question("the quick", words, 0)])
    found = scored([task], params, tokenizer)["loglik"]
    np.testing.assert_allclose(found, every(task, params, tokenizer), rtol=2e-6, atol=2e-5)


def test_groups_are_disjoint_and_save_what_can_be_saved():
    rng = np.random.default_rng(0)
    first, second = rng.integers(1, 9, 300), rng.integers(1, 9, 200)
    first[0], second[0] = 1, 2
    sequences = [np.append(first, rng.integers(1, 9, n)) for n in range(30)]
    sequences += [np.append(second, rng.integers(1, 9, n)) for n in range(20)]
    sequences += [rng.integers(3, 9, 40) for _ in range(5)]
    order = rng.permutation(len(sequences))
    found = packing.groups([sequences[i].astype(np.int32) for i in order])
    assert sorted(i for _, members in found for i in members) == list(range(55))
    by_size = {len(members): (n, {int(order[i]) for i in members}) for n, members in found}
    assert by_size[30] == (300, set(range(30)))
    assert by_size[20] == (200, set(range(30, 50)))
    assert by_size[5][0] == 0
    assert packing.groups([]) == []


def test_every_token_is_packed_once_and_rows_are_well_filled(tokenizer):
    rng = np.random.default_rng(0)
    documents = [
        Question(story(i, int(rng.integers(5, 30))), (" fox", story(i + 99, 4)), 0)
        for i in range(120)
    ]
    asked = requests.of_tasks([Task("t", documents)], tokenizer, 256)
    plan = packing.plan(asked.bundles)
    calls = [call for group in plan.groups for call in group.calls]
    assert sum(call.n_tokens for call in calls) == plan.n_tokens
    cells = np.concatenate([call.request for call in calls])
    assert (np.bincount(cells) == asked.n_tokens).all()
    full = calls[:-1]
    assert sum(c.n_tokens for c in full) / sum(c.token.size for c in full) > 0.9
    assert len({call.token.shape for call in calls}) <= 2


def test_a_too_long_context_is_cut_equally_for_all_choices(params, tokenizer):
    document = Question(story(1, 60), (" fox", " owls hum softly over the dogs"), 0)
    context = tokenizer.encode(document.context).ids
    choices = [tokenizer.encode(c).ids for c in document.choices]
    asked = requests.of_tasks([Task("t", [document, *TASK.documents])], tokenizer, 64)
    assert asked.n_truncated == 1
    kept = 64 - (len(choices[1]) - 1)
    assert [list(c) for c in asked.bundles[0].contexts] == [context[-kept:]] * 2
    with pytest.raises(InputError, match=r"'t': document 0: a continuation of .* window of 8"):
        requests.of_tasks([Task("t", [document])], tokenizer, 8)


def test_a_bos_token_begins_every_context(tokenizer):
    begun = type(tokenizer).from_str(tokenizer.to_str())
    begun.post_processor = processors.TemplateProcessing(
        "<|endoftext|> $A", None, [("<|endoftext|>", 0)]
    )
    plainly, marked = (requests.of_tasks([TASK], t, 256) for t in (tokenizer, begun))
    for a, b in zip(plainly.bundles, marked.bundles, strict=True):
        for x, y in zip(a.contexts, b.contexts, strict=True):
            assert [0, *x] == list(y)
        for x, y in zip(a.continuations, b.continuations, strict=True):
            assert list(x) == list(y)


def test_a_request_that_is_lost_is_noticed(params, tokenizer):
    plan = scoring.prepare([SHARED], tokenizer, 256).plan
    plan.groups[0].calls.pop()
    with pytest.raises(RuntimeError, match="answered exactly once"):
        loglik.score(MODEL, params, plan)


def test_work_that_was_cut_short_goes_on_where_it_was(params, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_TOKENS_AT_ONCE", {"cpu": 128})
    questions = scoring.prepare([SHARED], tokenizer, 256)
    calls = []
    compute = loglik._computed

    def counting(model, params, plan, skip):
        for item in compute(model, params, plan, skip):
            calls.append(item)
            if len(calls) == 5:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(loglik, "_computed", counting)
    monkeypatch.setattr(scoring, "_KEEP_EVERY_S", 0.0)
    path, total = tmp_path / "s.parquet", questions.plan.n_calls
    assert total > 6
    arguments = (path, MODEL, params, [questions], "weights", {"run": "r"}, False)
    with pytest.raises(KeyboardInterrupt):
        scoring.score_into(*arguments)
    assert not path.exists()
    found = scoring.score_into(*arguments)
    assert 5 < len(calls) < 5 + total - 1  # the calls that were kept were not computed again
    np.testing.assert_array_equal(
        found["loglik"], scoring.score(MODEL, params, questions)["loglik"]
    )
    n_calls = len(calls)
    scoring.score_into(*arguments)
    assert len(calls) == n_calls
    assert [p.name for p in tmp_path.iterdir()] == ["s.parquet"]
    assert store.read(path).attrs["cells"] == {"run": "r"}
    with pytest.raises(InputError, match="holds scores of other weights"):
        scoring.score_into(path, MODEL, params, [questions], "others", {}, False)


@pytest.mark.parametrize("shape", [pytest.param((8, 1, 1), marks=pytest.mark.slow), (2, 2, 2)])
def test_any_mesh_gives_the_same_scores(shape, params, tokenizer):
    alone = scored([SHARED], params, tokenizer)["loglik"]
    mesh = parallel.make_mesh(MeshConfig(*shape))
    with parallel.use_mesh(mesh):
        shards = parallel.parameter_shardings(mesh, decoder.logical_axes(MODEL))
        spread = scored([SHARED], jax.device_put(params, shards), tokenizer)["loglik"]
    np.testing.assert_allclose(spread, alone, rtol=2e-6, atol=2e-5)


@pytest.mark.slow
def test_bfloat16_is_near_and_its_logits_do_not_tie(params, tokenizer):
    rough = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    exact, found = (scored([SHARED], p, tokenizer) for p in (params, rough))
    off = np.abs(found["loglik"] - exact["loglik"]) / exact["n_tokens"]
    assert 1e-6 < off.mean() < 0.1
    logits = decoder.bind(MODEL, rough)(jnp.arange(8)[None])
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.9


def test_weights_that_are_not_finite_are_refused(params, tokenizer):
    broken = params | {"head": params["head"].at[0, 0].set(jnp.nan)}
    with pytest.raises(InputError, match="scores that are not finite"):
        scored([SHARED], broken, tokenizer)


@pytest.mark.parametrize(
    ("seed", "tokens"), [(0, 1), pytest.param(1, 1024, marks=pytest.mark.slow)]
)
def test_random_bundles_are_scored_as_if_alone(seed, tokens, params, monkeypatch):
    """Few token ids, so that contexts and choices have common prefixes and repetitions."""
    monkeypatch.setattr(packing, "_GROUP_COST", 8)
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 3, 40)
    bundles, number = [], 0
    for _ in range(25):
        n = int(rng.integers(1, 6))
        stem = np.append(base[: rng.integers(1, 40)], rng.integers(0, 3, rng.integers(0, 4)))
        same = rng.random() < 0.5
        contexts = [stem if same else stem[: rng.integers(1, len(stem) + 1)] for _ in range(n)]
        choices = [rng.integers(0, 3, rng.integers(1, 6)) for _ in range(n)]
        parts = ([np.asarray(x, np.int32) for x in some] for some in (contexts, choices))
        bundles.append(requests.Bundle(*map(tuple, parts), tuple(range(number, number + n))))
        number += n
    found = loglik.score(MODEL, params, packing.plan(bundles, 1, tokens))
    for bundle in bundles:
        for context, choice, k in zip(*vars(bundle).values(), strict=True):
            inputs = np.zeros((1, MODEL.seq_len), np.int32)
            inputs[0, : len(context) + len(choice)] = np.append(context, choice)
            logits = np.asarray(_logits(params, inputs)[0], np.float64)
            at = np.arange(len(context) - 1, len(context) + len(choice) - 1)
            logs = logits[at] - np.logaddexp.reduce(logits[at], axis=-1, keepdims=True)
            expected = logs[np.arange(len(choice)), choice].sum()
            assert found.loglik[k] == pytest.approx(expected, abs=2e-5, rel=2e-6)
            assert found.greedy[k] == (logs.argmax(-1) == choice).all()


def test_scanned_layers_give_the_same_scores(params, tokenizer):
    from dataclasses import replace

    questions = scoring.prepare([SHARED], tokenizer, 256)
    rolled = scoring.score(replace(MODEL, scan_layers=True), params, questions)
    plainly = scoring.score(MODEL, params, questions)
    np.testing.assert_allclose(rolled["loglik"], plainly["loglik"], rtol=2e-6, atol=2e-5)
