"""Score stores: written, read, and the metrics of a run from them."""

import numpy as np
import pandas as pd
import pytest

from fitting.errors import InputError
from ladder_jax.eval import metrics, requests, store
from ladder_jax.measurements import own_runs
from ladder_jax.tasks.task import Question, Task

TASK = Task(
    "made up",
    [
        Question("the quick brown", (" fox jumps", " owls", " naïve 我们 hum"), 0),
        Question("a lazy dog", (" over", " over"), 1),  # identical choices
        Question("over the", (" a", " lazy dogs hum softly", " fox", " the"), 2),
    ],
)

NINE = requests.Requests([], np.arange(9), np.full(9, -1), np.ones(9, int), 0)


def test_a_store_round_trips_and_must_be_whole(tmp_path):
    scores = store.make([TASK], NINE, np.arange(-9.0, 0))
    store.write(scores, tmp_path / "s.parquet")
    pd.testing.assert_frame_equal(store.read(tmp_path / "s.parquet"), scores)
    scores.drop(columns="gold").to_parquet(tmp_path / "s.parquet")
    with pytest.raises(InputError, match="column 'gold' is missing"):
        store.read(tmp_path / "s.parquet")


def test_metrics_of_a_run_come_from_its_stores(tmp_path):
    evals = tmp_path / "evals"
    evals.mkdir()
    scores = store.make([TASK], NINE, np.arange(-9.0, 0))
    store.write(scores, evals / "scores-00000012.parquet")
    fewer = scores[scores["doc"] < 2]
    store.write(fewer, evals / "tasks-00000012.parquet")  # a later scoring, of fewer documents
    ((step, (values, n)),) = own_runs._measured(evals).items()
    assert (step, n) == (12, {"made up": 3})
    assert values == {"made up": metrics.of_task(scores)}
