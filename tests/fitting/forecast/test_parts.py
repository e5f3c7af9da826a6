"""Ways to accuracy: which a table allows, which failed, and what is said where there is none."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fitting.errors import InputError
from fitting.forecast import ForecastSpec, diagnose
from fitting.forecast.methods import METHODS
from fitting.forecast.parts import first_data, prepare
from fitting.posterior import laplace
from fitting.posterior.hierarchy import Step1
from tests import planted_hill as hills
from tests.planted_hill import TARGET, hill, interval, ladder, log_loss, made

LAW = log_loss()
RNG = np.random.default_rng(0)
LOSSES = {name: np.exp(LAW + 0.004 * RNG.standard_normal(16)) for name in "abcdef"}
ACCURACIES = {name: hill(LAW) + 0.005 * RNG.standard_normal(16) for name in "ab"}
C4, WIKI = "c4_en_val:lm_loss", "wiki:lm_loss"


def table(losses=(), accuracies="ab"):
    """Losses by `TASK:METRIC`; accuracies by task."""
    named = {name: LOSSES["abcdef"[i]] for i, name in enumerate(losses)}
    return ladder(named, {name: ACCURACIES[name] for name in accuracies})


def ways(frame, tasks="ab", method="laplace", **settings):
    """Feature -> tasks of each part."""
    found = prepare(frame, ForecastSpec(["r*"], [TARGET], list(tasks), method, **settings))
    assert len({part.feature for part in found}) == len(found)
    return {part.feature: "+".join(data.task for data in part.data) for part in found}


ALLOWED = {
    "bpb and a text": (["a", "b", C4], {"bpb": "a+b", "lm_loss": "a+b", "inputs": "a+b"}),
    "bpb": (["a", "b"], {"bpb": "a+b", "inputs": "a+b"}),
    "bpb of some": (["b"], {"bpb": "b", "inputs": "a+b"}),
    "a text": ([C4], {"lm_loss": "a+b", "inputs": "a+b"}),
    "another text": ([WIKI], {"lm_loss of wiki": "a+b", "inputs": "a+b"}),
    "two texts": ([WIKI, C4], {"lm_loss": "a+b", "inputs": "a+b"}),
    "accuracies": ([], {"inputs": "a+b"}),
}


@pytest.mark.parametrize("kind", ALLOWED)
def test_pooled_methods_take_every_way_that_was_measured(kind):
    losses, expected = ALLOWED[kind]
    for method in ("bayes", "laplace"):
        assert ways(table(losses), method=method) == expected


def test_texts_are_a_part_of_their_own():
    frame = table(["a", "b", C4, WIKI])
    assert ways(frame, ["c4_en_val", "wiki"]) == {"texts": "c4_en_val+wiki"}
    assert ways(frame, ["a", "wiki"]) == {
        "texts": "wiki", "bpb": "a", "lm_loss": "a", "inputs": "a"
    }  # fmt: skip
    (one, other) = made(frame, ["c4_en_val", "wiki"])
    assert list(one.posteriors) == ["texts"]
    assert one.posteriors["texts"] is other.posteriors["texts"]
    assert one.posteriors["texts"].step2 is None


def test_each_task_is_prepared_once_of_its_first_way():
    spec = ForecastSpec(["r*"], [TARGET], ["a", "b"], "laplace")
    found = {data.task: data for data in first_data(prepare(table(["b"]), spec))}
    assert set(found) == {"a", "b"}
    assert set(found["b"].columns) == {"loss", "acc"}
    assert set(found["a"].columns) == {"acc"}


def test_a_task_mixes_the_ways_that_it_has():
    of_a, of_b = made(table(["b"]), "ab", chance=dict.fromkeys("ab", 0.25))
    assert set(of_a.posteriors) == {"inputs"}
    assert set(of_b.posteriors) == {"bpb", "inputs"}
    assert set(of_a.quantiles) == {"acc"}
    assert set(of_b.quantiles) == {"loss", "acc"}


def test_a_text_can_be_named():
    frame = table(["a", "b", C4, WIKI])
    every = {"bpb": "a+b", "lm_loss of wiki": "a+b", "inputs": "a+b"}
    assert ways(frame, feature_task="wiki") == every
    assert ways(frame, feature="lm_loss") == {"lm_loss": "a+b"}
    alone = {"lm_loss of wiki": "a+b"}
    assert ways(frame, feature="lm_loss", feature_task="wiki") == alone
    assert ways(frame, "ab", "least-squares", feature="lm_loss", feature_task="wiki") == alone
    with pytest.raises(InputError, match="`feature_task` names a text: leave `feature` at lm_loss"):
        ForecastSpec(feature="bpb", feature_task="wiki")
    with pytest.raises(InputError, match="have no lm_loss of 'books'"):
        ways(frame, feature_task="books")


def test_an_incomplete_text_is_not_a_way_unless_it_is_named():
    frame = table(["a", "b", C4])
    some = frame[(frame["task"] != "c4_en_val") | (frame["run"] != "r5")]
    assert ways(some) == {"bpb": "a+b", "inputs": "a+b"}
    with pytest.raises(InputError, match="run 'r5' has no lm_loss of 'c4_en_val'"):
        ways(some, feature="lm_loss")


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.pools])
def test_other_methods_take_one_way(method):
    assert ways(table(["a", "b", C4]), "ab", method) == {"bpb": "a+b"}
    assert ways(table([C4]), "ab", method) == {"lm_loss": "a+b"}
    assert ways(table([WIKI]), "ab", method) == {"lm_loss of wiki": "a+b"}
    assert ways(table([]), "ab", method, steps="one") == {"inputs": "a+b"}
    with pytest.raises(InputError) as caught:
        ways(table([]), "ab", method)
    assert str(caught.value) == (
        "no task has bits per byte, and no text a loss of every run: use `steps` one (N and D "
        "straight to accuracy), or `method` bayes"
    )


def test_runs_without_bits_per_byte_are_named():
    frame = table(["a"])
    lacks = (frame["run"] == "r3") & (frame["metric"] == "bpb")
    with pytest.raises(InputError, match="run 'r3' has no bpb of 'a'"):
        ways(frame[~lacks], "a", "least-squares")


def test_what_is_not_there_is_refused():
    frame = table([C4])
    for method in METHODS:
        with pytest.raises(InputError, match="task 'arc' is not in the table"):
            ways(frame, ["arc"], method)
    with pytest.raises(InputError, match="task 'c4_en_val' has no accuracy for a single step"):
        ways(frame, ["c4_en_val"], steps="one")
    losses = frame[frame["task"] == "c4_en_val"].assign(task="a", metric="bpb")
    with pytest.raises(InputError, match="have no acc of 'a'"):
        ways(losses, "a")


def failing(monkeypatch, fails):
    """Laplace's search fails for the models that `fails` picks."""
    real = laplace.sample

    def sample(model, arguments, seed):
        found = real(model, arguments, seed)
        return replace(found, problems=("no mode",)) if fails(model) else found

    monkeypatch.setattr(laplace, "sample", sample)


def test_a_way_without_a_posterior_is_left_out(monkeypatch):
    frame = table(["a"], "a")
    (sound,) = made(frame, "a", feature="bpb")
    failing(monkeypatch, lambda model: bool(getattr(model, "inputs", ())) and model != Step1(
        ("n_params", "n_tokens")))  # fmt: skip
    (one,) = made(frame, "a")
    assert one.method == "laplace"
    np.testing.assert_array_equal(one.quantiles["acc"], sound.quantiles["acc"])
    assert set(one.posteriors) == {"bpb", "inputs"}
    assert not one.sound
    notes = diagnose.warnings([one])
    text = "inputs: no posterior was found (step 2: no mode); it is left out of the mixture"
    assert notes[text] == ["a"]


def test_the_bootstrap_takes_the_place_of_posteriors_that_failed(monkeypatch):
    frame = table(["a"], "a")
    (expected,) = made(frame, "a", method="bootstrap")
    failing(monkeypatch, lambda model: True)
    (one,) = made(frame, "a")
    assert one.method == "bootstrap"
    assert {row["method"] for row in one.rows} == {"bootstrap"}
    np.testing.assert_array_equal(one.quantiles["acc"], expected.quantiles["acc"])
    notes = list(diagnose.warnings([one]))
    for way in ("bpb", "inputs"):
        (text,) = [note for note in notes if note.startswith(f"{way}: no posterior was found")]
        assert text.endswith("; the bootstrap is used")


def test_chains_replaced_by_laplace_are_noted(monkeypatch):
    real = laplace.sample
    monkeypatch.setattr(
        laplace, "sample", lambda *a: replace(real(*a), attempts=("NUTS: r_hat 1.2 above 1.01",))
    )
    (one,) = made(table(["a"], "a"), "a", feature="bpb")
    assert one.sound
    for step in ("step 1", "step 2"):
        assert (
            f"{step} through bpb: Laplace's approximation is used, as chains failed their checks "
            "(NUTS: r_hat 1.2 above 1.01)"
        ) in diagnose.warnings([one])


@pytest.mark.parametrize("inputs", ["nd", "c"])
def test_a_single_pooled_step_forecasts_from_accuracies_alone(inputs):
    target = f"{TARGET},{6 * 3e9 * 6e11}"
    frame = table([], "a")
    (one,) = made(frame, "a", chance={"a": 0.25}, steps="one", inputs=inputs, targets=[target])
    assert set(one.quantiles) == {"acc"}
    low, high = interval(one)
    assert low < hills.TRUE < high < 0.95
    pd.testing.assert_frame_equal(
        pd.DataFrame(one.rows),
        pd.DataFrame(made(frame, "a", chance={"a": 0.25}, inputs=inputs, targets=[target])[0].rows),
    )


def test_a_way_that_some_runs_lack_is_noted():
    frame = table(["a"], "a")
    lacking = (frame["metric"] == "bpb") & (frame["run"] == frame["run"].iloc[0])
    (one,) = made(frame[~lacking], "a")
    assert set(one.posteriors) == {"inputs"}
    (note,) = [text for text in diagnose.warnings([one]) if "not used in the mixture" in text]
    assert note.startswith("bpb of a is not used in the mixture")
    assert frame["run"].iloc[0] in note
    (whole,) = made(frame, "a")
    assert not whole.left_out


def test_without_posterior_and_bootstrap_there_is_no_forecast(monkeypatch):
    frame = table(["a"], "a")
    few = list(frame["run"].unique()[:4])
    failing(monkeypatch, lambda model: True)
    with pytest.raises(InputError, match="no posterior of 'a' was found, and the bootstrap cannot"):
        made(frame[frame["run"].isin(few)], "a")
