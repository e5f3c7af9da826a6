"""Warnings about runs, fits and targets, each with a planted example and its absence."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fitting import table
from fitting.forecast import ForecastSpec, cautions, diagnose, forecast
from fitting.laws import CHINCHILLA
from fitting.laws.curves import predict
from fitting.table import COLUMNS
from ladder_jax import cli
from tests.planted import LADDER, STEP1, TARGET, planted


def text_runs(cells, noise=0.002, seed=0, shift=None):
    """Runs of (N, D) that follow a planted law of loss; `shift` adds to their log losses."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, (n, d) in enumerate(cells):
        log_loss = np.log(float(predict(CHINCHILLA, STEP1, np.array([n, d]))))
        log_loss += noise * rng.standard_normal() + (shift(i, n, d) if shift else 0.0)
        rows.append({"run": f"r{i}", "n_params": int(n), "n_tokens": int(d), "flops": 6 * n * d,
                     "task": "text", "metric": "lm_loss", "value": np.exp(log_loss)})  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


GRID = [(n, n * m) for n in (1e8, 2e8, 4e8, 8e8) for m in (10, 20, 40, 80)]
AHEAD = "new=7e9,1.4e11"


def made(frame, target=AHEAD, method="least-squares"):
    (one,) = forecast(frame, ForecastSpec(["r*"], [target], ["text"], method))
    return one


@pytest.fixture(scope="module")
def plain():
    return made(text_runs(GRID))


@pytest.mark.parametrize("caution", cautions.CAUTIONS)
def test_a_ladder_that_follows_its_law_has_no_caution(plain, caution):
    assert caution(plain) == []


def test_a_target_below_a_smaller_run():
    frame = planted(0, 0.004, 0.004)
    (one,) = forecast(frame, ForecastSpec(LADDER, [TARGET], ["t"], "least-squares"))
    assert cautions.below_a_smaller_run(one) == []
    final = one.final.assign(acc=one.final["acc"].where(one.final["run"] != "8e+08-2xC", 0.93))
    final["loss"] = final["loss"].where(final["run"] != "4e+08-1xC", 0.4)
    found = cautions.below_a_smaller_run(replace(one, data=replace(one.data, final=final)))
    loss, accuracy = sorted(found, key=lambda text: "loss" not in text)
    assert "above the 0.4 that the smaller run 4e+08-1xC has reached" in loss
    assert "is below the 93.0% that the smaller run 8e+08-2xC has reached" in accuracy
    larger = final.assign(n_tokens=1e15)  # in N alone the target is larger
    assert cautions.below_a_smaller_run(replace(one, data=replace(one.data, final=larger))) == []


def test_size_and_tokens_that_rise_together():
    rng = np.random.default_rng(0)
    sizes = 1e8 * 2.0 ** np.arange(12)
    for spread, noted in ((1.05, True), (1.5, True), (30.0, False)):
        ratios = 20 * spread ** rng.uniform(-0.5, 0.5, 12)
        frame = text_runs(list(zip(sizes, sizes * ratios, strict=True)))
        (text, *_) = cautions.size_and_tokens_together(made(frame, "new=7e9,4e12")) or [""]
        assert ("new: the effect of N cannot be told from that of D" in text) == noted
        assert ("its D/N is 571" in text) == noted
        assert cautions.size_and_tokens_together(made(frame)) == []  # at 20 tokens a parameter


def test_residuals_that_trend(plain):
    log_d = np.log(plain.final["n_tokens"].to_numpy())
    steeper = np.array([0, 0.05 * log_d.mean(), 0, 0.05, 0])  # beta, level at the mean
    bent = replace(plain, step1=replace(plain.step1, theta=plain.step1.theta + steeper))
    (text,) = cautions.trending_residuals(bent)
    assert text.startswith("step 1: residuals rise by ")
    assert text.endswith(" % over the runs' range of D: the law does not follow them")
    fit = plain.step1.theta + steeper
    share = np.exp(fit[1] - fit[3] * log_d) / predict(CHINCHILLA, fit, plain.data.observations.x)
    expected = 5 * share.mean() * np.ptp(log_d)  # percent
    assert float(text.split()[5]) == pytest.approx(expected, rel=0.3)
    few = replace(plain.data, final=plain.final.iloc[:7])
    assert cautions.trending_residuals(replace(bent, data=few)) == []


def test_runs_off_the_law_are_named_with_their_residual():
    def shift(i, n, d):
        return {3: np.log(1.12), 9: np.log(0.95)}.get(i, 0.0)

    (text,) = cautions.runs_off_the_law(made(text_runs(GRID, shift=shift)))
    assert text.startswith("step 1: runs r3: loss 1")
    assert "r9: loss 5" in text
    assert " below the law; `exclude` 'r3' 'r9' leaves them out" in text
    (one,) = cautions.runs_off_the_law(
        made(text_runs(GRID, shift=lambda i, n, d: 0.1 if i == 3 else 0.0))
    )
    assert one.endswith("above the law; `exclude` 'r3' leaves it out")
    assert "runs" not in one


def test_many_runs_off_the_law_are_counted():
    cells = [(n, n * m) for n in np.geomspace(1e8, 8e8, 10) for m in (10, 15, 20, 40, 80)]
    off = range(0, 50, 6)
    frame = text_runs(cells, shift=lambda i, n, d: 0.05 + i / 1000 if i in off else 0.0)
    (text,) = cautions.runs_off_the_law(made(frame))
    assert text.count("above the law") == 6
    assert text.index("r48: ") < text.index("r42: ")
    assert "and 3 more; `exclude` 'r48' 'r42' " in text


@pytest.mark.parametrize("seed", [4, 9, 10])
def test_a_fit_that_passes_through_half_of_its_runs_names_no_other(seed):
    """Ten runs and five parameters: the Huber fit leaves half of the residuals near 0."""
    one = made(text_runs(GRID[:10], noise=0.02, seed=seed))
    residuals = np.abs(cautions._residuals(one, one.step1))
    assert (residuals > 4 * np.median(residuals) / 0.6745).any()
    assert cautions.runs_off_the_law(one) == []


def test_a_published_fit_that_stalled(plain):
    paper = made(text_runs(GRID), method="paper")
    assert cautions.stalled(paper) == []
    worse = replace(paper.step1, objective=0.0101)
    (text,) = cautions.stalled(replace(paper, step1=worse))
    assert text == (
        f"step 1 stalled: objective .0101 against {plain.step1.objective:.3g}, the least that was "
        "found: use `method` least-squares"
    )
    assert cautions.stalled(replace(plain, step1=worse)) == []


def test_repeated_text():
    frame = text_runs([*GRID, (7e9, 1.4e11)])
    known = frame.assign(unique_tokens=(frame["n_tokens"] / 1.3).round())
    known.loc[known.index[2:-1], "unique_tokens"] = known["n_tokens"]
    ask = ForecastSpec([f"r{i}" for i in range(16)], ["r16", AHEAD], ["text"], "least-squares")
    (one,) = forecast(known, ask)
    assert cautions.repeated_text(one) == [
        "2 of the runs fitted read their text up to 1.3 times: the law knows of no repetition",
        "r16 reads its text 1.3 times: the law knows of no repetition",
    ]
    (one,) = forecast(frame, ask)
    assert cautions.repeated_text(one) == []


def test_the_command_prints_cautions_in_its_flags(tmp_path, capsys):
    frame = text_runs(GRID, shift=lambda i, n, d: 0.1 if i == 3 else 0.0)
    table.write(frame.assign(unique_tokens=10**8), tmp_path / "m.csv")
    ask = ["predict", "--measurements", str(tmp_path / "m.csv"), "--train", "r*", "--target",
           AHEAD, "--tasks", "text", "--method", "least-squares"]  # fmt: skip
    assert cli.main([*ask, "--out", str(tmp_path / "p.csv")]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert any("above the law; --exclude 'r3' leaves it out: text" in note for note in notes)
    assert "note: 16 of the runs fitted read their text up to 640 times" in "\n".join(notes)
    assert cli.main([*ask, "--exclude", "r3", "--out", str(tmp_path / "p.csv")]) == 0
    assert "above the law" not in capsys.readouterr().out


def test_warnings_contain_the_cautions():
    frame = text_runs(GRID, shift=lambda i, n, d: 0.1 if i == 3 else 0.0)
    one = made(frame)
    (text,) = cautions.runs_off_the_law(one)
    assert diagnose.warnings([one])[text] == ["text"]
