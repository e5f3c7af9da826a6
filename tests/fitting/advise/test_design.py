"""Advice on the next run: conditioning, the best set, and output and errors of the command."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from fitting import table
from fitting.advise import design, next_run, realised
from fitting.advise.design import CandidateModel, JointPrediction
from fitting.errors import InputError
from fitting.forecast import ForecastSpec
from fitting.laws import CHINCHILLA
from fitting.observations import build
from fitting.observations.preparation import POOLED
from fitting.observations.select import parse_target, select_runs
from fitting.posterior.bayes import accuracy_discrepancy, loss_discrepancy
from fitting.posterior.hierarchy import NOISE_DOF
from ladder_jax import cli
from tests.planted import LADDER, TARGET, planted

SMALL = ["2e*", "4e*"]


def random_model(n_candidates, seed=0):
    """Random directions: three tasks, two of which share a series, and two targets."""
    rng = np.random.default_rng(seed)
    n_goals, of_task = 2 + n_candidates, np.array([0, 1, 1])
    joint = JointPrediction(
        True, 0.02 * rng.normal(size=(2, n_goals, 5)), rng.uniform(1e-5, 1e-4, 2),
        0.02 * rng.normal(size=(3, n_goals, 6)), rng.uniform(1e-5, 1e-4, 3),
        -rng.uniform(0.5, 1, (3, n_goals)),
    )  # fmt: skip
    compute = np.concatenate([[4.0, 5.0], rng.uniform(0, 2, n_candidates)])
    ahead = np.column_stack([compute, np.zeros_like(compute)])
    return CandidateModel(joint, of_task, np.zeros((1, 2)), ahead, 2)


# Of Student t noise with 4 degrees of freedom: variance, and the inverse of Fisher's information.
TO_COME, OBSERVED = 2.0, 7 / 5


def test_the_variances_stand_for_the_noise():
    noise = scipy.stats.t(NOISE_DOF)
    assert noise.var() == pytest.approx(TO_COME)
    x = np.linspace(-200, 200, 400_001)
    score = (NOISE_DOF + 1) * x / (NOISE_DOF + x**2)  # minus the derivative of the log density
    information = np.sum(score**2 * noise.pdf(x)) * (x[1] - x[0])
    assert 1 / information == pytest.approx(OBSERVED, rel=1e-4)


@pytest.mark.parametrize("chosen", [(), (1,), (0, 2, 3)])
def test_conditioning_is_what_parameters_say(chosen):
    """Posterior covariance of both steps' parameters by brute force, observation by observation."""
    o = random_model(4)
    j = o.joint
    precision1, precision2 = np.eye(5), np.eye(6)
    for c in chosen:
        for s in range(2):
            noise = OBSERVED * j.loss_noise[s]
            precision1 += np.outer(j.loss[s, 2 + c], j.loss[s, 2 + c]) / noise
        for t in range(3):
            noise = OBSERVED * j.accuracy_noise[t]
            precision2 += np.outer(j.accuracy[t, 2 + c], j.accuracy[t, 2 + c]) / noise
    reached = max([0.0, *(o.ahead[2 + c, 0] for c in chosen)])
    found = o.variance(chosen)
    for t, g in np.ndindex(3, 2):
        s = o.of_task[t]
        log_loss = j.loss[s, g] @ np.linalg.solve(precision1, j.loss[s, g])
        accuracy = j.accuracy[t, g] @ np.linalg.solve(precision2, j.accuracy[t, g])
        noise, left = j.accuracy_noise[t], o.ahead[g, 0] - reached
        accuracy += TO_COME * noise + accuracy_discrepancy(np.sqrt(noise), left) ** 2
        assert found[t, g] == pytest.approx(j.slope[t, g] ** 2 * log_loss + accuracy, rel=1e-9)


def test_conditioning_without_a_loss_is_that_of_accuracies():
    whole = random_model(4)
    nothing = dict.fromkeys(("loss", "loss_noise", "slope"))
    alone = replace(whole, joint=whole.joint._replace(**nothing))
    flat = replace(whole, joint=whole.joint._replace(slope=0 * whole.joint.slope))
    for chosen in ((), (1,), (0, 2, 3)):
        np.testing.assert_allclose(alone.variance(chosen), flat.variance(chosen), rtol=1e-12)


@pytest.mark.parametrize("chosen", [(), (1,), (0, 2, 3)])
def test_conditioning_of_losses_is_what_parameters_say(chosen):
    whole = random_model(4)
    nothing = dict.fromkeys(("accuracy", "slope", "accuracy_noise"))
    o = replace(whole, joint=whole.joint._replace(**nothing), of_task=np.array([0, 1]))
    precision, j = np.eye(5), o.joint
    for c, s in itertools.product(chosen, range(2)):
        precision += np.outer(j.loss[s, 2 + c], j.loss[s, 2 + c]) / (OBSERVED * j.loss_noise[s])
    reached = max([0.0, *(o.ahead[2 + c, 0] for c in chosen)])
    for t, g in np.ndindex(2, 2):
        expected = j.loss[t, g] @ np.linalg.solve(precision, j.loss[t, g])
        expected += TO_COME * j.loss_noise[t]
        left = o.ahead[g, 0] - reached
        expected += loss_discrepancy(np.sqrt(j.loss_noise[t]), left) ** 2
        assert o.variance(chosen)[t, g] == pytest.approx(expected, rel=1e-9)


def test_a_set_holds_few_runs_and_none_that_hardly_narrows():
    model, costs = random_model(30, 0), np.full(30, 0.01)
    found = next_run.best_set(model, costs, 1.0)
    assert 1 <= len(found) <= 8
    for run in found[: len(found) if len(found) > 1 else 0]:
        rest = [c for c in found if c != run]
        assert model.width(rest) > 1.005 * model.width(found)


@pytest.mark.parametrize("budget", [0.5, 2.0, 4.0, 100.0])
@pytest.mark.parametrize("exhaustive", [0, 10])
def test_the_best_set_is_that_of_all_sets(monkeypatch, budget, exhaustive):
    monkeypatch.setattr(next_run, "_EXHAUSTIVE", exhaustive)
    monkeypatch.setattr(next_run, "_IDLE", 0.0)
    for seed in range(3):
        o, costs = random_model(7, seed), np.random.default_rng(seed).uniform(0.6, 3, 7)
        sets = [s for n in range(8) for s in itertools.combinations(range(7), n)]
        within = [list(s) for s in sets if costs[list(s)].sum() <= budget]
        found = next_run.best_set(o, costs, budget)
        assert costs[found].sum() <= budget
        best = min(map(o.width, within))
        assert o.width(found) <= best * (1 + (0 if exhaustive else 0.02)) + 1e-12
        assert found == sorted(found, key=lambda c: costs[c])


def test_a_run_at_an_odd_ratio_is_no_step_towards_the_target():
    """A candidate whose D/N is far off on the other side, and whose compute is small."""
    o = random_model(1)
    odd = replace(o, ahead=np.array([[4.0, 2.0], [5.0, 2.0], [-3.0, -6.0]]))
    far = replace(odd, ahead=np.array([[4.0, 2.0], [5.0, 2.0], [-3.0, 0.0]]))
    np.testing.assert_allclose(odd.variance([0]), far.variance([0]), rtol=1e-12)
    near = replace(odd, ahead=np.array([[4.0, 2.0], [5.0, 2.0], [-3.0, 2.0]]))
    assert (near.variance([0]) < far.variance([0])).all()


def test_a_run_that_does_not_help_is_not_chosen():
    o = random_model(3)
    names = ("loss_noise", "accuracy_noise")
    noisy = o.joint._replace(**{name: np.full_like(getattr(o.joint, name), 1e6) for name in names})
    idle = replace(o, joint=noisy, ahead=np.array([[x, 0.0] for x in (4, 5, 0, 0, 0)]))
    assert next_run.best_set(idle, np.ones(3), 10.0) == []


@pytest.fixture(scope="module")
def frame():
    return planted(0, 0.004, 0.004)


def observed(frame, runs, targets, task="t"):
    data = build.observe(frame, task, runs, POOLED["bpb"], CHINCHILLA)
    return build.with_targets(data, frame, targets)


@pytest.fixture(scope="module")
def small_model(frame):
    """From eight runs; the candidates are the other eight, by size and tokens."""
    runs = select_runs(frame, SMALL)
    rest = [run for run in frame["run"].unique() if run not in (*runs, TARGET)]
    targets = [parse_target(frame, run) for run in (TARGET, *rest)]
    data = observed(frame, runs, targets)
    return design.candidate_model([data.observations], [data.targets], 1)


def test_more_runs_never_widen_and_the_largest_narrows_most(small_model):
    rng = np.random.default_rng(0)
    for _ in range(20):
        order = [int(c) for c in rng.permutation(8)]
        widths = [small_model.width(order[:n]) for n in range(9)]
        assert (np.diff(widths) <= 1e-12).all()
    alone = [small_model.width([c]) for c in range(8)]
    assert int(np.argmin(alone)) == 7
    assert alone[7] < 0.9 * small_model.width()


def test_the_criterion_is_of_the_size_that_fitting_gives(frame):
    runs = select_runs(frame, LADDER)
    targets = [parse_target(frame, TARGET)]
    data = observed(frame, runs, targets)
    base, sets = range(8), [[], [8], [12], [11, 15], range(8, 16)]
    expected, fitted = realised.criterion_against_realised(
        [data.observations], [data.targets], base, sets
    )
    assert expected.shape == fitted.shape == (5, 1, 1)
    np.testing.assert_allclose(expected[0], fitted[0], rtol=1e-6)  # nothing was added
    # The larger ladders also tell the noise better: a factor of 2 of a width.
    assert (np.abs(np.log(expected / fitted)) < 2 * np.log(2)).all()


def losses_of(frame):
    """The table's losses as those of a text."""
    return frame[frame["metric"] == "bpb"].assign(task="text", metric="lm_loss")


def test_losses_alone_are_those_of_the_first_step(frame, small_model):
    """The directions and the noise are those that a task with the same losses has."""
    texts, runs = losses_of(frame), select_runs(frame, SMALL)
    rest = [run for run in frame["run"].unique() if run not in (*runs, TARGET)]
    targets = [parse_target(texts, run) for run in (TARGET, *rest)]
    data = observed(texts, runs, targets, "text")
    alone = design.candidate_model([data.observations], [data.targets], 1)
    np.testing.assert_allclose(alone.joint.loss, small_model.joint.loss, rtol=1e-9)
    np.testing.assert_allclose(alone.joint.loss_noise, small_model.joint.loss_noise, rtol=1e-9)
    assert alone.joint.accuracy is None
    widths = [alone.width(range(n)) for n in range(9)]
    assert (np.diff(widths) <= 1e-12).all()
    sd = np.sqrt(alone.variance([])[0, 0])
    assert widths[0] == pytest.approx(2 * 1.959964 * sd)


def test_losses_and_accuracies_are_not_advised_together(frame):
    both = pd.concat([frame, losses_of(frame)])
    spec = ForecastSpec(SMALL, [TARGET], ["t", "text"])
    with pytest.raises(InputError, match="or for losses alone, as their widths cannot be added"):
        next_run.advise(both, spec, 1e20)


def test_costs_follow_the_runs_of_the_nearest_size(frame):
    known = frame[frame["run"] != TARGET].copy()
    large = known["size"] == "1e+09"
    known.loc[large, "flops"] *= 7 / 6
    for text, ratio in (("a=3e9,1e11", 7), ("b=1e8,1e9", 6), ("c=3e9,1e11,5e20", 5 / 3)):
        target = next_run.with_flops(parse_target(frame, text), known)
        assert target.flops == pytest.approx(ratio * target.n_params * target.n_tokens)
    unknown = next_run.with_flops(parse_target(frame, "a=3e9,1e11"), known.assign(flops=np.nan))
    assert unknown.flops == pytest.approx(6 * 3e20)


def test_candidates_are_what_has_not_been_trained(frame):
    known = frame[frame["run"].isin(select_runs(frame, SMALL))]
    found = next_run.untrained(known.replace({"run": {"2e+08-10xC": "long"}}))
    assert [c.name for c in found] == ["2e+08-20xC", "2e+08-40xC", "4e+08-20xC", "4e+08-40xC"]
    assert found[1].n_tokens == 20 * 2e8 * 40


def test_sizes_without_a_label_are_candidates_once(frame):
    known = frame[frame["run"].isin(select_runs(frame, SMALL))].assign(size="")
    known["n_params"] = known["n_params"] + 1000 * known["multiple"]
    found = next_run.untrained(known)
    assert [c.name for c in found] == ["2e+08-20xC", "2e+08-40xC", "4e+08-20xC", "4e+08-40xC"]
    assert found[0].n_params == 2e8 + 10_000


@pytest.fixture(scope="module")
def folder(frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    table.write(frame, folder / "m.csv")
    return folder


def command(folder, *more, target=TARGET, budget="2e20"):
    ask = ["next", "--measurements", str(folder / "m.csv"), "--train", *SMALL, "--tasks", "t",
           "--target", target, "--flops", budget, "--out", str(folder / "a.csv"),
           "--figure", str(folder / "a.png")]  # fmt: skip
    return cli.main([*ask, *more])


def test_the_command_advises(folder, capsys):
    assert command(folder, "--candidate", "8e+08-1xC", "8e+08-10xC", "new=2e9,4e11") == 0
    printed = capsys.readouterr().out
    rows = pd.read_csv(folder / "a.csv").set_index("run")
    assert rows.index[0] == "new"
    assert rows["shrinkage"].is_monotonic_decreasing
    assert rows["flops"]["new"] == pytest.approx(6 * 8e20)
    assert rows["affordable"].to_dict() == {"new": False, "8e+08-10xC": False, "8e+08-1xC": True}
    assert rows.index[rows["chosen"]].tolist() == ["8e+08-1xC"]
    assert "best within 2e+20 FLOPs: 8e+08-1xC, 7.68e+19 FLOPs, to " in printed
    assert (folder / "a.png").is_file()


def test_the_command_advises_for_a_text(frame, tmp_path, capsys):
    table.write(losses_of(frame), tmp_path / "m.csv")
    assert command(tmp_path, "--tasks", "text", "--candidate", "8e+08-1xC", "1e+09-10xC") == 0
    rows = pd.read_csv(tmp_path / "a.csv").set_index("run")
    assert rows.index[0] == "1e+09-10xC"
    assert (rows["shrinkage"] > 0).all()
    printed = capsys.readouterr().out
    assert "percent of the loss on average\n" in printed
    assert "points" not in printed


def test_the_command_advises_for_accuracies_alone(frame, tmp_path, capsys):
    """Without any loss, N and D lead straight to accuracy."""
    table.write(frame[frame["metric"] != "bpb"], tmp_path / "m.csv")
    assert command(tmp_path, "--candidate", "8e+08-1xC", "1e+09-10xC") == 0
    rows = pd.read_csv(tmp_path / "a.csv").set_index("run")
    assert rows.index[0] == "1e+09-10xC"
    assert (rows["shrinkage"] > 0).all()
    assert "points" in capsys.readouterr().out


def test_the_command_advises_through_the_loss_of_a_text(frame, tmp_path):
    accuracies = frame[frame["metric"] != "bpb"]
    table.write(pd.concat([accuracies, losses_of(frame)]), tmp_path / "m.csv")
    assert command(tmp_path, "--candidate", "8e+08-1xC", "1e+09-10xC") == 0
    through_text = pd.read_csv(tmp_path / "a.csv").set_index("run")
    table.write(frame, tmp_path / "m.csv")  # the same losses, as the task's own
    assert command(tmp_path, "--candidate", "8e+08-1xC", "1e+09-10xC") == 0
    own = pd.read_csv(tmp_path / "a.csv").set_index("run")
    pd.testing.assert_frame_equal(through_text, own, rtol=1e-6)
    table.write(accuracies, tmp_path / "m.csv")
    assert command(tmp_path, "--candidate", "8e+08-1xC", "1e+09-10xC") == 0
    alone = pd.read_csv(tmp_path / "a.csv").set_index("run")
    assert (abs(alone["width"] / own["width"] - 1) > 0.01).all()


def test_no_affordable_run_is_reported(folder, capsys):
    assert command(folder, budget="1e10") == 0
    assert "no affordable run narrows the intervals by 1%\n" in capsys.readouterr().out
    assert not pd.read_csv(folder / "a.csv")[["affordable", "chosen"]].any(axis=None)


REFUSED = {
    "budget": ({"budget": "0"}, (), "--flops 0: give a budget above 0"),
    "trained": ({}, ("--candidate", "2e+08-1xC"), "--candidate 2e+08-1xC is also in --train"),
    "clash": ({}, ("--candidate", "2e+08-1xC=2e8,4e9"), "--candidate '2e+08-1xC=2e8,4e9': the "
              "table has a run '2e+08-1xC'; give another name"),
    "twice": ({}, ("--candidate", "a=1e9,1e10", "a=1e9,2e10"), "a is named twice"),
    "target": ({"target": "40B"}, (), "--target '40B' is not in the table"),
    "trained target": ({"target": "2e+08-1xC"}, (), "--target 2e+08-1xC is also in --train"),
    "numbers": ({}, ("--candidate", "a=1"), "--candidate 'a=1': write NAME=N_PARAMS,N_TOKENS"),
    "task": ({}, ("--tasks", "u"), "task 'u' is not in the table"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_one_line(folder, tmp_path, capsys, kind):
    (tmp_path / "m.csv").write_bytes((folder / "m.csv").read_bytes())
    settings, more, message = REFUSED[kind]
    assert command(tmp_path, *more, **settings) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ladder next: {message}")
