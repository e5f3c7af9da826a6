"""The importer of lm-evaluation-harness results: labels, metrics, metadata, and each bad input."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from fitting import table
from fitting.errors import InputError
from fitting.forecast import ForecastSpec, predict
from fitting.laws import SINGLE_STEP
from fitting.laws.curves import predict as curve_at
from fitting.table import COLUMNS
from ladder_jax import cli
from ladder_jax.measurements.lm_eval_results import HEADER, from_lm_eval
from tests.lm_eval_files import DATE, GOOD, LABEL, RESULTS, config, content, scores, values, write


def test_labels_metrics_and_metadata(tmp_path):
    columns = "run,size,multiple,seed,step,n_params,n_params_total,n_tokens,flops,lr,lr_peak"
    assert ("file", *columns.split(",")) == HEADER
    write(
        tmp_path, None, [f"./{RESULTS},a,1M,2.5,3,100,7,9,2000,84000,1e-4,1e-3"], "file," + columns
    )
    frame, problems = from_lm_eval(tmp_path)
    assert problems == []
    assert values(frame) == GOOD
    assert table.validate(frame) == []
    assert list(frame.columns) == list(COLUMNS)
    assert {str(frame[c].dtype) for c in table.INTEGER_COLUMNS} == {"Int64"}
    known = ["a", "1M", 2.5, 3, 100, 7, 9, 2000, 84000, 1e-4, 1e-3]
    assert all(row == known for row in frame[columns.split(",")].values.tolist())
    n_examples = frame.drop_duplicates("task").set_index("task")["n_examples"].to_dict()
    assert n_examples == {
        LABEL: 4, "piqa_lmeval_5shot": 3, "wikitext_lmeval_0shot": 62, "both_lmeval_5shot": 7
    }  # fmt: skip


def test_only_file_and_run_are_needed(tmp_path):
    write(tmp_path, rows=[f"{RESULTS},a"], header="file,run")
    frame, problems = from_lm_eval(tmp_path)
    assert problems == []
    assert set(frame["run"]) == {"a"}
    assert set(frame["size"]) == {""}
    assert frame[["step", "n_params", "n_tokens", "flops"]].isna().all(axis=None)


def test_any_file_that_runs_csv_names_is_read(tmp_path):
    write(tmp_path, {f"mine_{DATE}.json": content()}, [f"mine_{DATE}.json,a,1,7,2000"])
    frame, problems = from_lm_eval(tmp_path)
    assert problems == []
    assert values(frame) == GOOD


def test_without_a_delimiter_the_space_was_counted(tmp_path):
    configs = {"arc_challenge": config("arc_challenge", target_delimiter="")}
    write(tmp_path, {RESULTS: content(configs=configs)})
    found = values(from_lm_eval(tmp_path)[0])
    assert found[LABEL, "acc_per_char_with_space"] == 0.5
    assert (LABEL, "acc_per_char") not in found


def swapped(**tasks):
    """The good file with these entries of `results` replaced."""
    return content(results=content()["results"] | tasks)


BAD_RESULTS = {
    "truncated": (json.dumps(content())[:500], "is not complete JSON ("),
    "empty": ("", "is not complete JSON ("),
    "another JSON": ("[1, 2]", "holds no 'results': did lm_eval write it?"),
    "no results": ({"config": {}}, "holds no 'results'"),
    "nothing of ours": (
        content(results={"gsm8k": content()["results"]["gsm8k"]}),
        "has no metric of acc, acc_norm, acc_bytes, acc_mutual_info, bits_per_byte",
    ),
}
BAD_CELLS = {
    "percent": (swapped(piqa=scores("piqa", acc=75.0)), "'acc,none': acc is 75: it cannot exceed"),
    "NaN": (swapped(piqa=scores("piqa", acc=math.nan)), "'acc,none': acc is nan"),
    "text": (swapped(piqa=scores("piqa", acc="N/A")), "'acc,none' is 'N/A': write a number"),
    "a truth": (swapped(piqa=scores("piqa", acc=True)), "'acc,none' is True: write a number"),
    "negative": (swapped(wikitext=scores("wikitext", bits_per_byte=-1.0)), "lm_bpb is -1"),
    "no n-shot": (content(**{"n-shot": {"arc_challenge": 5}}), "'n-shot' has no single number for"),
    "n-shot differs": (
        content(**{"n-shot": content()["n-shot"] | {"piqa": 0}}),
        "'n-shot' has no single number for 'both'",
    ),
}


@pytest.mark.parametrize("kind", BAD_RESULTS)
def test_a_bad_file_is_left_out(tmp_path, kind):
    bad, text = BAD_RESULTS[kind]
    write(tmp_path, {"results.json": bad}, ["results.json,b,100,7,2000"])
    with pytest.raises(InputError, match=r"results\.json: ") as caught:
        from_lm_eval(tmp_path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    rows = ["results.json,b,100,7,2000", f"{RESULTS},a,100,7,2000"]
    write(tmp_path, {"results.json": bad, RESULTS: content()}, rows)
    frame, (problem,) = from_lm_eval(tmp_path)
    assert str(problem).startswith(f"{tmp_path / 'results.json'}: ")
    assert text in str(problem)
    assert values(frame) == GOOD


@pytest.mark.parametrize("kind", BAD_CELLS)
def test_a_bad_cell_is_left_out(tmp_path, kind):
    bad, text = BAD_CELLS[kind]
    write(tmp_path, {RESULTS: bad})
    frame, problems = from_lm_eval(tmp_path)
    assert str(problems[0]).startswith(f"{tmp_path / RESULTS}: ")
    assert text in str(problems[0])
    assert len(frame) < len(GOOD)
    assert ("both_lmeval_5shot", "acc") not in values(frame) or "n-shot" not in text
    assert values(frame)[LABEL, "acc_per_char"] == 0.5


BAD_ROWS = {
    "a number": ("results_b.json,b,100,7M,2000", "row 3: n_params is '7M': write a number"),
    "a fraction": ("results_b.json,b,1.5,7,2000", "row 3: step is 1.5: no integer"),
    "a sign": ("results_b.json,b,1,7,-2000", "row 3: n_tokens is -2000.0: check the sign"),
    "no run": ("results_b.json,,1,7,2000", "row 3: run is empty"),
    "no file": (",b,1,7,2000", "row 3: file '' does not exist: correct its path"),
    "a missing file": (
        "b.json,b,1,7,2000",
        "row 3: file 'b.json' does not exist: correct its",
    ),
    "a cut row": ("results_b.json,b", "row 3: 2 fields where the header has 5"),
    "a row twice": (f"a__b/../{RESULTS},b,1,7,2000", "is listed twice: remove one row"),
    "two sizes of a run": ("results_b.json,a,200,9,2000", "row 3: n_params is 9.0 where run 'a'"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_of_runs_csv_is_left_out(tmp_path, kind):
    bad, text = BAD_ROWS[kind]
    write(tmp_path, {RESULTS: content(), "results_b.json": content()})
    with open(tmp_path / "runs.csv", "a") as f:
        f.write(bad + "\n")
    frame, (problem, *others) = from_lm_eval(tmp_path)
    assert str(problem).startswith(f"{tmp_path / 'runs.csv'}: row 3: ")
    assert text in str(problem)
    assert all("results_b.json: is not in" in str(other) for other in others)
    assert values(frame) == GOOD


def test_unlisted_files_and_unknown_columns_are_reported(tmp_path):
    write(tmp_path, {RESULTS: content(), "results_b.json": content()})
    _, (problem,) = from_lm_eval(tmp_path)
    assert str(problem) == (
        f"{tmp_path / 'results_b.json'}: is not in {tmp_path / 'runs.csv'}: add its row"
    )
    write(tmp_path, {}, [f"{RESULTS},a,9"], "file,run,tokens")
    frame, (problem, _) = from_lm_eval(tmp_path)
    assert "runs.csv: row 1: column 'tokens' is unknown: remove it, or use file," in str(problem)
    assert frame["n_tokens"].isna().all()


def test_no_bad_row_or_file_at_all_gets_one_line(tmp_path):
    with pytest.raises(InputError, match=r"holds no results\*\.json"):
        from_lm_eval(tmp_path)
    write(tmp_path)
    (tmp_path / "runs.csv").unlink()
    with pytest.raises(InputError) as caught:
        from_lm_eval(tmp_path)
    assert f"such as {RESULTS}, under the header {','.join(HEADER)}" in str(caught.value)
    write(tmp_path, rows=["x.json,a"], header="path,run")
    with pytest.raises(InputError, match=r"runs\.csv: row 1: column 'file' is missing; add it"):
        from_lm_eval(tmp_path)
    write(tmp_path, rows=["x.json,a,1,1,1"])
    with pytest.raises(InputError, match=r"row 2: file 'x\.json' does not exist.*\(and 1 more\)"):
        from_lm_eval(tmp_path)


def test_the_first_of_two_files_of_a_run_and_step_is_kept(tmp_path):
    later = content(results={"piqa": scores("piqa", acc=0.1), "wikitext": scores("w", acc=0.2)})
    rows = ["results_b.json,a,100,7,2000", f"{RESULTS},a,100,7,2000"]
    write(tmp_path, {RESULTS: content(), "results_b.json": later}, rows)
    frame, (problem,) = from_lm_eval(tmp_path)
    kept = {("piqa_lmeval_5shot", "acc"): 0.1, ("wikitext_lmeval_0shot", "acc"): 0.2}
    assert values(frame) == GOOD | kept
    assert table.validate(frame) == []
    assert f"{RESULTS}: acc of 'piqa_lmeval_5shot': " in str(problem)
    assert "results_b.json has the same for run 'a' at this step" in str(problem)
    rows[0] = "results_b.json,a,200,7,4000"
    write(tmp_path, {}, rows)
    frame, problems = from_lm_eval(tmp_path)
    assert problems == []
    assert len(frame) == len(GOOD) + 2


def test_measure_imports_results_of_the_harness(tmp_path, capsys):
    results, out = tmp_path / "results", tmp_path / "m.csv"
    ask = ["measure", "--from", "lm-eval", "--out", str(out)]
    assert cli.main(ask) == 2
    assert "--runs DIR is needed: the output of lm_eval --output_path" in capsys.readouterr().err
    write(results, {RESULTS: content(), "results_b.json": content()})
    assert cli.main([*ask, "--runs", str(results), "--strict"]) == 2
    assert not out.exists()
    assert "results_b.json: is not in" in capsys.readouterr().err
    assert cli.main([*ask, "--runs", str(results)]) == 0
    assert "7 measurements of 1 runs and 4 tasks" in capsys.readouterr().out
    frame, problems = table.read(out)
    assert problems == []
    assert values(frame) == GOOD


def test_a_ladder_is_forecast_in_one_step(tmp_path):
    theta = np.array([parameter.start for parameter in SINGLE_STEP.params])
    theta[-2:] = -0.6, 0.9
    files, rows, truth = {}, [], {}
    sizes = [(n, 20 * n * m) for n in (1e8, 3e8, 1e9) for m in (1, 4, 10)]
    for n, d in [*sizes, (7e9, 4e12)]:
        run = f"{n:.0e}-{d:.0e}"
        truth[run] = float(curve_at(SINGLE_STEP, theta, np.array([n, d])))
        files[f"{run}/results_{DATE}.json"] = content(
            results={"piqa": scores("piqa", acc=truth[run], acc_norm=truth[run])}
        )
        rows.append(f"{run}/results_{DATE}.json,{run},,{n:.0f},{d:.0f}")
    write(tmp_path, files, rows)
    frame, problems = from_lm_eval(tmp_path)
    assert problems == []
    *train, target = truth
    spec = ForecastSpec(train, [target], ["piqa_lmeval_5shot"], "paper", steps="one")
    (made,) = predict.forecast(frame, spec)
    assert made.rows[0]["actual"] == truth[target]
    assert made.rows[0]["pred"] == pytest.approx(truth[target], abs=0.01)
    with pytest.raises(InputError, match="no task has bits per byte, and no text a loss"):
        predict.forecast(frame, replace(spec, steps="two"))
