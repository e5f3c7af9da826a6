"""Scores of runs: while they train, and `ladder eval --checkpoint` afterwards."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

from fitting import table
from fitting.errors import InputError
from ladder_jax import cli, parallel
from ladder_jax.config import EvalConfig
from ladder_jax.config_text import to_json
from ladder_jax.eval import store
from ladder_jax.eval.runs import _in_loop, score, train_and_score
from ladder_jax.measurements import own_runs
from ladder_jax.models import counts
from ladder_jax.training import metrics_log, run_directory
from ladder_jax.training.checkpoint import Checkpoints
from ladder_jax.training.initialize import abstract_state
from tests.eval_home import (
    ARC,
    LONG,
    MINE,
    MODEL,
    evaluate,
    read,
    shardings,
    values,
)
from tests.helpers import contents, one_line, story, write_jsonl


def kept_stores(directory):
    return {int(p.stem.split("-")[1]): p for p in directory.glob("evals/scores-*.parquet")}


def test_a_run_is_scored_while_it_trains(home, runs):
    watched, plain = home.root / "watched", home.root / "plain"
    first, second = kept_stores(watched), kept_stores(plain)
    assert set(first) == {4, 8, 12, 16}
    assert set(second) == {8, 16}
    for step in second:  # what training holds is what its checkpoint gives back
        pd.testing.assert_frame_equal(store.read(first[step]), store.read(second[step]))
    frame = own_runs.from_runs(watched)
    steps = frame.groupby("task")["step"].unique().map(list).to_dict()
    assert steps == {"mine": [4, 8, 12, 16], "heldout": [4, 8, 12, 16]}
    assert (frame["n_tokens"] == frame["step"] * 8 * 64).all()
    assert table.validate(frame) == []
    assert frame["lr"].notna().all()
    both = frame[frame["step"].isin([8, 16])].reset_index(drop=True)
    pd.testing.assert_frame_equal(both, own_runs.from_runs(plain))


def test_scoring_changes_nothing_in_training(home, runs):
    def logged(name):
        logged = ("loss", "lr", "grad_norm", "param_norm")
        return {row["step"]: [row[k] for k in logged] for row in metrics_log.read(home.root / name)}

    watched, plain = logged("watched"), logged("plain")
    assert {step: watched[step] for step in plain} == plain
    ends = [restored(runs.plain, home.root / name, 16) for name in ("watched", "plain")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def restored(run, directory, step):
    checkpoints = Checkpoints(directory / "checkpoints")
    try:
        return checkpoints.restore(abstract_state(run, parallel.make_mesh(run.mesh)), step)[0]
    finally:
        checkpoints.close()


def test_a_step_whose_scoring_was_cut_short_is_scored_later(home, runs, tmp_path):
    copy = shutil.copytree(home.root / "watched", tmp_path / "copy")
    before = store.read(kept_stores(copy)[8])
    kept_stores(copy)[8].unlink()
    run_directory.eval_path(copy, 8, "heldout").unlink()
    assert run_directory.scored_steps(runs.watched) == [16]  # step 8 is not one of the scored steps
    assert score(runs.watched, copy, home.cache, progress=False)
    pd.testing.assert_frame_equal(store.read(kept_stores(copy)[8]), before)
    assert run_directory.eval_path(copy, 8, "heldout").is_file()


def test_bad_tasks_are_refused_before_a_run_is_trained(home, runs, tmp_path):
    twin = write_jsonl(tmp_path / "twin" / "mine.jsonl", MINE)
    long = write_jsonl(tmp_path / "long.jsonl", [LONG])
    for tasks, message in (
        (["arc_easyy"], "task 'arc_easyy' is unknown"),
        ([str(home.mine), str(twin)], "two of the tasks are named 'mine'"),
        (
            [str(long)],
            "leaves no context in a window of 64",
        ),
    ):
        run = replace(runs.plain, eval=EvalConfig(tuple(tasks)))
        with pytest.raises(InputError, match=message):
            train_and_score(run, tmp_path / "run", home.cache, progress=False)
        assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_is_no_defect_of_the_scorer(home, runs, tmp_path):
    with parallel.use_mesh(parallel.make_mesh(runs.watched.mesh)) as mesh:
        nowhere = jax.tree.map(lambda x: np.full_like(x, np.nan), home.params)
        nowhere = jax.device_put(nowhere, shardings(runs.watched, mesh).params)
        with pytest.raises(InputError, match="held-out loss of step 4 is not finite"):
            _in_loop(runs.watched, tmp_path, home.cache, 4, nowhere)
    assert not list(tmp_path.iterdir())


def other_text(run, folder):
    """A copy of the run that reads a different text."""
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.txt").write_text(story(99 + i), encoding="utf-8")
    return replace(run, data=replace(run.data, path=str(folder)))


def test_a_run_is_not_scored_with_the_tokenizer_of_other_text(home, runs, old, tmp_path, capsys):
    changed = other_text(runs.plain, tmp_path / "text")
    (old / "config.json").write_text(to_json(changed))
    run_directory.eval_path(old, 16, "heldout").unlink()
    before = contents(old)
    ask = ["eval", "--checkpoint", old, "--tasks", home.mine, "--out", tmp_path / "e.csv"]
    one_line(capsys, ask, f"{old}: ", "gives other text now", "or give --tokenizer")
    with pytest.raises(InputError, match=f"{old}: `data.source` gives other text now"):
        score(changed, old, home.cache, progress=False)
    assert contents(old) == before
    assert evaluate(*ask[1:], "--tokenizer", home.root / "tokenizer.json") == 0


def test_an_imported_run_has_its_own_tokenizer_or_none(home, tmp_path, capsys):
    for name in ("tiny", "bare"):
        ask = ["import-hf", "--hf", home.root / name, "--n-tokens", 6400, "--out", tmp_path / name]
        assert cli.main(list(map(str, ask))) == 0
    ask = ["--tasks", ARC, "--out", tmp_path / "e.csv"]
    assert evaluate("--checkpoint", tmp_path / "tiny", *ask) == 0
    frame = read(tmp_path / "e.csv")
    assert set(frame["n_tokens"]) == {6400}
    assert frame[["seed", "lr", "lr_peak"]].isna().all(axis=None)  # of which nothing is known
    assert evaluate("--hf", home.root / "tiny", "--tasks", ARC, "--out", tmp_path / "f.csv") == 0
    assert values(frame) == values(read(tmp_path / "f.csv"))
    one_line(capsys, ["eval", "--checkpoint", tmp_path / "bare", *ask],
             f"{tmp_path / 'bare'}: no tokenizer.json beside the weights")  # fmt: skip


def test_tasks_are_added_to_an_old_run(home, runs, old, tmp_path, idle, capsys):
    before, out = own_runs.from_runs(old.parent), tmp_path / "e.csv"
    late = write_jsonl(tmp_path / "late.jsonl", MINE)  # what it was scored on, under another name
    ask = ["--checkpoint", old, "--tasks", ARC, late, "--out", out]
    assert evaluate(*ask, "--steps", "all") == 0
    shown = capsys.readouterr().out
    assert "ours, step 8 " in shown
    assert "ours, step 16 " in shown
    frame = read(out)
    assert set(frame["task"]) == {ARC, "late"}
    assert sorted(set(frame["step"])) == [8, 16]
    logged = {row["step"]: row["lr"] for row in metrics_log.read(old)}
    for step, rows in frame.groupby("step"):
        columns = ["run", "size", "seed", "n_tokens", "flops", "lr", "lr_peak"]
        (known,) = rows[columns].drop_duplicates().to_numpy().tolist()
        n = step * 8 * 64
        assert known == ["ours", "S", 0, n, n * counts.flops_per_token(MODEL), logged[step], 0.01]
        mine = before[(before["task"] == "mine") & (before["step"] == step)]
        again = rows[rows["task"] == "late"]
        assert dict(zip(again["metric"], again["value"], strict=True)) == dict(
            zip(mine["metric"], mine["value"], strict=True)
        )

    assert cli.main(["measure", "--runs", str(old.parent), "--out", str(tmp_path / "m.csv")]) == 0
    whole, rows = read(tmp_path / "m.csv"), ["step", "task", "metric"]
    expected = pd.concat([before.astype(frame.dtypes), frame]).sort_values(rows)
    pd.testing.assert_frame_equal(
        whole.sort_values(rows).reset_index(drop=True), expected.reset_index(drop=True)
    )
    written, stamps = out.read_bytes(), contents(old)
    idle()
    assert evaluate(*ask, "--steps", "16,8,16") == 0
    assert sorted(out.read_text().splitlines()) == sorted(written.decode().splitlines())
    assert evaluate(*ask, "--steps", "all") == 0
    assert out.read_bytes() == written
    assert evaluate(*ask) == 0
    assert set(read(out)["step"]) == {16}
    assert contents(old) == stamps
    idle(False)
    assert evaluate(*ask, "--limit", 1) == 0
    assert set(read(out)["n_examples"]) == {1}
    assert cli.main(["measure", "--runs", str(old.parent), "--out", str(tmp_path / "n.csv")]) == 0
    assert (tmp_path / "n.csv").read_bytes() == (tmp_path / "m.csv").read_bytes()


def test_one_step_may_have_a_store_and_a_name_of_its_own(home, runs, old, tmp_path):
    before, held = contents(old), tmp_path / "s.parquet"
    ask = ["--checkpoint", old, "--steps", "8", "--tasks", ARC, "--name", "early"]
    assert evaluate(*ask, "--store", held, "--out", tmp_path / "e.csv") == 0
    assert contents(old) == before
    assert set(read(tmp_path / "e.csv")["run"]) == {"early"}
    assert held.is_file()
