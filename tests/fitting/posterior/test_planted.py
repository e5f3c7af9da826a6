"""The pooled model on planted ladders: noisy losses, outliers, ceilings, order, more runs."""

import numpy as np
import pytest

from fitting.forecast import cautions
from fitting.posterior import bayes
from fitting.solve.multistart import best_links
from tests import planted_hill as hills
from tests.planted_hill import STEEPNESS, TRUE, interval, ladder, log_loss, made

LAW = log_loss()


def measured(seed, of_loss=0.004, cells=hills.GRID, **curve):
    """Log losses and accuracies of runs, with noise."""
    rng, law = np.random.default_rng(seed), log_loss(cells)
    noise_of_loss, noise = rng.standard_normal((2, len(law)))
    return law + of_loss * noise_of_loss, hills.hill(law, **curve) + 0.005 * noise


def test_noisy_losses_do_not_flatten_the_curve():
    """Noise of half the losses' range: a curve fitted to the noisy losses is too flat."""
    ours, theirs = [], []
    for seed in range(5):
        frame = hills.noisy(seed, np.ptp(LAW) / 2)
        (one,) = made(frame, feature="bpb")
        steepness = one.posteriors["bpb"].step2.flat()["log_steepness"]
        ours.append(np.exp(np.median(steepness)))
        (link,) = best_links([one.data.observations])
        theirs.append(link.theta[2])
        low, high = interval(one)
        assert low < TRUE < high
    assert STEEPNESS / 1.5 < np.median(ours) < 1.5 * STEEPNESS
    assert np.median(theirs) < STEEPNESS / 2


def test_a_run_off_the_law_moves_little_and_is_named():
    loss, accuracy = measured(0)
    off = loss + np.log(1.2) * (np.arange(16) == 9)
    (before,), (after,) = (
        made(ladder({"task": np.exp(v)}, {"task": accuracy}), feature="bpb") for v in (loss, off)
    )
    for side in ("loss", "acc"):
        low, high = interval(before, side)
        moved = np.interp(0.5, after.p, after.quantiles[side][0])
        moved -= np.interp(0.5, before.p, before.quantiles[side][0])
        assert abs(moved) < 0.15 * (high - low)
    assert np.diff(interval(after, "loss")) < 1.5 * np.diff(interval(before, "loss"))
    (text,) = cautions.runs_off_the_law(after)
    assert text.startswith("step 1: run r9: loss 2")
    assert cautions.runs_off_the_law(before) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_loss_of_pure_noise_does_not_narrow(seed):
    noise = np.exp(0.1 * np.random.default_rng([seed, 1]).standard_normal(16))
    frame = ladder({"task": noise}, {"task": measured(seed)[1]})
    mixed, alone = (interval(made(frame, **way)[0]) for way in ({}, {"steps": "one"}))
    assert np.diff(mixed) > np.diff(alone)
    assert mixed[0] < TRUE < mixed[1]


def test_a_ceiling_is_found_where_there_is_no_chance():
    """A task that is not multiple choice and stays at .5, however small the loss."""
    loss, accuracy = measured(0, chance=0.0, top=0.5, half=1.3, steepness=14.0)
    frame = ladder({"task": np.exp(loss)}, {"task": np.clip(accuracy, 0, 1)})
    for way in ({}, {"feature": "bpb"}, {"steps": "one"}):
        (one,) = made(frame, chance={"task": 0.0}, **way)
        low, high = interval(one)
        assert low < 0.5 < high < 0.6
    (choices,) = made(frame, chance={"task": 1e-4})  # multiple choice: 1 at no loss
    assert interval(choices)[1] > 0.7


def test_the_order_of_runs_and_tasks_has_no_effect():
    frames = []
    rng = np.random.default_rng(0)
    orders = [np.arange(16), rng.permutation(16)]
    values = {name: measured(seed, half=0.9 + 0.1 * seed) for seed, name in enumerate("uvw")}
    for order in orders:
        frames.append(
            ladder(
                {name: np.exp(loss[order]) for name, (loss, _) in values.items()},
                {name: accuracy[order] for name, (_, accuracy) in values.items()},
                [hills.GRID[i] for i in order],
            )
        )
    chance = dict.fromkeys("uvw", 0.25)
    plain = {one.task: one for one in made(frames[0], "uvw", chance=chance)}
    for frame, tasks in ((frames[1], "uvw"), (frames[0], "wuv"), (frames[1], "vwu")):
        again = made(frame, tasks, chance=chance)
        assert [one.task for one in again] == list(tasks)
        for one in again:
            for side in ("loss", "acc"):
                ours, theirs = interval(plain[one.task], side), interval(one, side)
                np.testing.assert_allclose(theirs, ours, atol=0.1 * np.diff(ours)[0])


def test_runs_narrow_the_parameters_and_not_the_discrepancy(monkeypatch):
    sizes = np.geomspace(2e8, 1.3e9, 8)
    many = [(n, 20 * n * m) for n in sizes for m in np.geomspace(1, 10, 8)]
    parameters, discrepancies = [], []
    for cells in (hills.GRID, many):
        loss, accuracy = measured(0, cells=cells)
        (one,) = made(ladder({"task": np.exp(loss)}, {"task": accuracy}, cells), feature="bpb")
        posterior, targets = one.posteriors["bpb"], [one.data.targets]

        def variances(posterior=posterior, targets=targets):
            return [np.var(v) for v in (lambda d: (np.log(d.loss), d.accuracy))(
                bayes.predict(posterior, targets))]  # fmt: skip

        whole = variances()
        with monkeypatch.context() as without:
            for name in ("accuracy_discrepancy", "loss_discrepancy"):
                without.setattr(bayes, name, lambda sd, *given: 0.0 * sd)
            left = variances()
        discrepancies.append(np.subtract(whole, left))
        ahead = np.log(one.data.targets.inputs) - posterior.series.centre_x[:, None]
        parameters.append(bayes._log_loss(posterior, ahead).std())
    assert parameters[1] < 0.85 * parameters[0]
    assert (discrepancies[1] > 0.5 * discrepancies[0]).all()


@pytest.mark.slow
def test_nuts_and_laplace_agree_where_the_runs_say_enough():
    loss, accuracy = measured(0)
    frame = ladder({"task": np.exp(loss)}, {"task": accuracy})
    (sampled,), (at_mode,) = (
        made(frame, method=method, feature="bpb") for method in ("bayes", "laplace")
    )
    assert all(draws.stats for draws in sampled.posteriors["bpb"].steps.values())  # of NUTS
    for side in ("loss", "acc"):
        ours, theirs = interval(at_mode, side), interval(sampled, side)
        assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.15 * np.diff(theirs)[0])
        assert 0.7 < np.diff(ours)[0] / np.diff(theirs)[0] < 1.2
