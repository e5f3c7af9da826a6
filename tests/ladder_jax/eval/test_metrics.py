"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest

from fitting.table import METRICS
from ladder_jax.eval import metrics, requests, store
from ladder_jax.tasks.task import Question, Task


def test_every_metric_by_hand():
    """Two documents; the second choice of the first has multi-byte text, the second one a tie."""
    task = Task(
        "t",
        [Question("q", (" ab", " é我"), 1), Question("q", ("no", "no", " yes"), 1)],
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
    task = Task("t", [Question("q", (" ab",), 0), Question("r", (" c",), 0)])
    asked = requests.Requests([], np.arange(2), np.array([-1, -1]), np.array([1, 1]), 0)
    scores = store.make([task], asked, np.array([-2.0, -1.0]))
    assert scores["loglik_unconditional"].isna().all()
    bits = 1 / math.log(2)
    assert metrics.of_task(scores) == pytest.approx(
        {"bpb": bits, "bpb_with_space": bits * (2 / 3 + 1 / 2) / 2}
    )
    two = Task("t", [Question("q", (" ab", " c"), 0)])
    got = metrics.of_task(store.make([two], asked, np.array([-2.0, -1.0])))
    assert "acc" in got
    assert "acc_uncond" not in got
    assert math.isnan(metrics.standard_errors(store.make([two], asked, np.ones(2)))["acc"])
