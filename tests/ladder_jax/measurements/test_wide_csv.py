"""Any CSV by a map of its columns: values, what is left out and said, and each kind of bad row."""

import numpy as np
import pytest

from fitting import table
from ladder_jax.measurements.wide_csv import from_csv
from tests.csv_maps import LONG, MAP, WIDE, values, write
from tests.helpers import refused


def read(directory, text=WIDE, map_=MAP):
    file, json_file = write(directory, text, map_)
    return from_csv([file], [json_file])


def with_(**changes):
    return {**MAP, **changes}


def test_a_wide_table_keeps_order_values_and_run_columns(tmp_path):
    frame, problems, notes = read(tmp_path)
    assert problems == []
    assert list(frame.columns) == list(table.COLUMNS)
    assert table.validate(frame) == []
    assert values(frame) == {
        ("c4-a", "c4_en_val", "lm_loss"): 3.5,
        ("c4-a", "piqa", "acc"): 0.5,
        ("c4-b", "c4_en_val", "lm_loss"): 3.25,
        ("rpj-c", "c4_en_val", "lm_loss"): 3.75,
        ("rpj-c", "piqa", "acc"): 0.75,
    }
    assert list(frame["run"]) == ["c4-a", "c4-a", "c4-b", "rpj-c", "rpj-c"]
    assert list(frame["n_params"]) == [100, 100, 200, 100, 100]
    assert list(frame["flops"]) == list(6.0 * frame["n_params"] * frame["n_tokens"])
    assert list(frame["lr_peak"]) == [1e-3, 1e-3, 1e-3, 2e-3, 2e-3]
    assert list(frame["n_examples"].fillna(0)) == [0, 1838, 0, 0, 1838]
    assert frame[["step", "seed", "multiple", "lr", "n_params_total"]].isna().all(axis=None)
    assert set(frame["size"]) == {""}
    assert notes == [
        "t.csv: empty cells: acc_piqa 1", "t.csv: columns that the map does not use: note"
    ]  # fmt: skip


def test_every_column_of_the_table_can_be_mapped(tmp_path):
    shared = [c for c in table.COLUMNS if c not in ("task", "metric", "value", "n_examples")]
    cells = {c: str(k) for k, c in enumerate(shared, start=1)} | {"run": "r", "size": "s"}
    text = f"{','.join(cells)},v,n\n{','.join(cells.values())},0.5,7\n"
    measure = {"column": "v", "task": "t", "metric": "acc", "n_examples": "n"}
    frame, problems, notes = read(tmp_path, text, {**{c: c for c in shared}, "measure": [measure]})
    assert (problems, notes) == ([], [])
    row = frame.iloc[0]
    assert {c: str(row[c]).removesuffix(".0") for c in shared} == cells
    assert (row["value"], row["n_examples"]) == (0.5, 7)


NUMBERS = {
    "a factor": ({"column": "step", "times": 2097152}, 10 * 2097152),
    "a constant": (85, 85),
    "a lookup": ({"column": "model", "values": {"m1": 70}}, 70),
    "a sum": ({"sum": ["n", {"column": "step", "times": 2}, 5]}, 4 + 20 + 5),
    "a product": ({"product": ["step", "n", 512]}, 10 * 4 * 512),
    "a quotient": ({"quotient": ["step", "n"]}, 2),  # 2.5, rounded to even
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_forms_of_numbers(tmp_path, kind):
    form, expected = NUMBERS[kind]
    text = LONG.splitlines(True)[0] + "m1,10,arc,50,acc,4\n"
    measure = {"column": "score", "task": "t", "metric": "acc", "scale": 0.01}
    map_ = {"run": "model", "n_tokens": form, "measure": [measure]}
    frame, problems, notes = read(tmp_path, text, map_)
    assert problems == []
    assert frame["n_tokens"].tolist() == [expected]
    assert frame["value"].tolist() == [0.5]
    rounded = "t.csv: n_tokens: 1 values are rounded to whole numbers"
    assert (rounded in notes) == (kind == "a quotient")


def test_tokens_follow_from_flops_and_parameters(tmp_path):
    text = "N,C,loss\n7,4200,3.5\n"
    measure = [{"column": "loss", "task": "t", "metric": "lm_loss"}]
    map_ = {"run": "run{row}", "n_params": "N", "n_tokens": "flops/6n", "flops": "C",
            "measure": measure}  # fmt: skip
    frame, problems, notes = read(tmp_path, text, map_)
    assert (problems, notes) == ([], [])
    assert frame[["run", "n_tokens", "flops"]].values.tolist() == [["run2", 100, 4200.0]]
    del map_["flops"]
    refused(lambda: read(tmp_path, text, map_), "t.json: n_tokens 'flops/6n': needs 'flops'")
    map_ |= {"flops": "6nd"}  # each of the other
    refused(lambda: read(tmp_path, text, map_), "needs 'flops': map a column to it")


def test_a_long_table_gives_a_task_a_row(tmp_path):
    task = {"column": "what", "values": {"arc": "arc_easy_0shot", "text": "c4"}}
    metric = {"column": "unit"}
    scores = {"column": "score", "task": task, "metric": metric, "scale": 0.01, "n_examples": "n"}
    map_ = {"run": "model", "step": "step", "measure": [scores]}
    frame, problems, notes = read(tmp_path, LONG, map_)
    assert problems == []
    found = frame[["step", "task", "metric", "value", "n_examples"]].values.tolist()
    assert found == [
        [10, "arc_easy_0shot", "acc", 0.5, 4],
        [10, "c4", "lm_loss", pytest.approx(0.035), 9],
        [20, "arc_easy_0shot", "acc", 0.75, 4],
    ]
    assert notes == ["t.csv: tasks that the map does not list, left out: other 1 rows"]
    map_["measure"] = [scores | {"task": "{what}_0shot"}]
    frame, _, notes = read(tmp_path, LONG, map_)
    assert list(frame["task"]) == ["arc_0shot", "text_0shot", "arc_0shot", "other_0shot"]
    assert notes == []


WHERE = {
    "texts": ({"data": ["rpj"]}, ["rpj-c"], 2),
    "numbers": ({"params": [100.0]}, ["c4-a", "rpj-c"], 1),
    "a range": ({"loss_c4": {"min": 3.5, "max": 3.7}}, ["c4-a"], 2),
    "two": ({"data": ["c4"], "params": {"min": 150}}, ["c4-b"], 2),
}


@pytest.mark.parametrize("kind", WHERE)
def test_where_chooses_rows_and_counts_the_others(tmp_path, kind):
    where, runs, n_left_out = WHERE[kind]
    frame, problems, notes = read(tmp_path, map_=with_(where=where))
    assert problems == []
    assert list(frame["run"].unique()) == runs
    assert f"t.csv: where: {n_left_out} of 3 rows are left out" in notes


def test_truths_are_compared_as_such_and_unknown_values_are_said(tmp_path):
    text = WIDE.replace(",x\n", ",True\n").replace(",y\n", ",False\n")
    frame, _, notes = read(tmp_path, text, with_(where={"note": [True]}))
    assert list(frame["run"].unique()) == ["c4-a", "c4-b"]
    frame, _, notes = read(tmp_path, map_=with_(where={"data": ["c4", "rjp"]}))
    assert "t.csv: where: no row has data 'rjp'; the nearest is 'rpj'" in notes
    refused(
        lambda: read(tmp_path, map_=with_(where={"data": ["rjp"]})),
        "t.json: where 'data': leaves no row of", "the nearest is 'rpj'",
    )  # fmt: skip


BAD_ROWS = {
    "no number": ("c,rpj,1OO,2000,1e-3,3,.5,", "n_params: params is '1OO': write a number"),
    "a negative count": ("c,rpj,-1,2000,1e-3,3,.5,", "n_params is -1.0: check the sign"),
    "no tokens": ("c,rpj,100,0,1e-3,3,.5,", "n_tokens is 0: leave it empty if unknown"),
    "no run": (",rpj,100,2000,1e-3,3,.5,", "run is empty or NaN: write its value"),
    "another N": ("a,c4,101,9000,1e-3,3,.5,", "n_params is 101.0 where run 'c4-a' began with"),
    "too few fields": ("c,rpj,100", "3 fields where the header has 8"),
}
BAD_CELLS = {
    "percent": ("c,rpj,100,2000,1e-3,3,50,", "acc_piqa: acc is 50: it cannot exceed 1"),
    "text": ("c,rpj,100,2000,1e-3,3,high,", "acc_piqa is 'high': write a number"),
    "infinite": ("c,rpj,100,2000,1e-3,3,inf,", "acc_piqa is 'inf': write a number"),
}


@pytest.mark.parametrize("kind", [*BAD_ROWS, *BAD_CELLS])
def test_a_bad_row_or_cell_is_left_out(tmp_path, kind):
    row, message = (BAD_ROWS | BAD_CELLS)[kind]
    text = "".join(WIDE.splitlines(True)[:3]) + row + "\n"
    frame, (problem,), _ = read(tmp_path, text)
    assert str(problem).startswith(f"{tmp_path / 't.csv'}: row 4: ")
    assert message in str(problem)
    assert len(frame) == (3 if kind in BAD_ROWS else 4)
    assert table.validate(frame) == []


def test_an_unlisted_value_of_a_run_column_is_a_problem(tmp_path):
    n_params = {"column": "run_name", "values": {"a": 1, "b": 2}}
    frame, (problem,), _ = read(tmp_path, map_=with_(n_params=n_params))
    assert "row 4: n_params: run_name is 'c', which `values` does not list" in str(problem)
    assert set(frame["run"]) == {"c4-a", "c4-b"}


def test_two_rows_of_one_measurement_are_named(tmp_path):
    file, json_file = write(tmp_path, WIDE.replace("b,c4,200,4000", "a,c4,100,2000"))
    frame, (problem,), _ = from_csv([file], [json_file])
    assert "row 3: loss_c4: run 'c4-a' has lm_loss of 'c4_en_val' in row 2" in str(problem)
    assert values(frame)["c4-a", "c4_en_val", "lm_loss"] == 3.5
    other, _ = write(tmp_path, name="u")
    _, problems, _ = from_csv([file, other], [json_file, json_file])
    assert f"{other}: row 2: loss_c4: run 'c4-a' has lm_loss" in str(problems[1])
    assert f"in {file} row 2 at the same step or tokens" in str(problems[1])


def test_checkpoints_of_a_run_do_not_collide(tmp_path):
    text = "model,step,what,score,unit,n\nm1,10,arc,.5,acc,4\nm1,20,arc,.75,acc,4\n"
    measure = {"column": "score", "task": "{what}", "metric": "acc"}
    for field in ("step", "n_tokens"):
        frame, problems, _ = read(
            tmp_path, text, {"run": "model", field: "step", "measure": [measure]}
        )
        assert problems == []
        assert frame[field].tolist() == [10, 20]


def test_several_files_make_one_table(tmp_path):
    first, loss = write(tmp_path, map_=with_(measure=MAP["measure"][:1]), name="loss")
    second, acc = write(tmp_path, map_=with_(measure=MAP["measure"][1:]), name="acc")
    frame, problems, _ = from_csv([first, second], [loss, acc])
    assert problems == []
    assert values(frame) == values(read(tmp_path).frame)
    refused(lambda: from_csv([first, second], [loss]), "`map`: 1 for 2 files")


def test_nothing_left_is_an_error_of_one_line(tmp_path):
    nameless = WIDE.replace(",c4,", ",,").replace(",rpj,", ",,")
    refused(lambda: read(tmp_path, nameless), "row 2: run is empty or NaN")
    empty = [{"column": "note", "task": "t", "metric": "acc"}]
    refused(
        lambda: read(tmp_path, WIDE.replace(",x\n", ",\n").replace(",y\n", ",\n"),
                     with_(measure=empty)),
        "holds no measurement",
    )  # fmt: skip
    assert not np.isnan(read(tmp_path).frame["value"]).any()
