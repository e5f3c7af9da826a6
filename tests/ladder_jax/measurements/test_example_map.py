"""Maps guessed from a header: they work, or say what is to be filled in."""

import json

import pytest

from ladder_jax import cli
from ladder_jax.measurements import example_map
from ladder_jax.measurements.wide_csv import from_csv
from tests.csv_maps import LONG, WIDE
from tests.helpers import one_line, refused


def guess(directory, text):
    path = directory / "t.csv"
    path.write_text(text)
    return path, json.loads(example_map.of(path))


GUESSES = {
    "wide": (
        WIDE,
        {"run": "run_name", "n_params": "params", "n_tokens": "tokens", "flops": "6nd"},
        [("loss_c4", "c4", "lm_loss"), ("acc_piqa", "piqa", "acc")],
    ),
    "units": (
        "Model,Model Size (B),Data Size (T),FLOPs (1E21),MMLU,Arc\n"
        "x,7,2,84,.5,.25\ny,8,2,96,.7,.5\nz,1,1,6,.25,.3\n",
        {"run": "Model", "n_params": {"column": "Model Size (B)", "times": 10**9},
         "n_tokens": {"column": "Data Size (T)", "times": 10**12},
         "flops": {"column": "FLOPs (1E21)", "times": 1e21}},
        [("MMLU", "MMLU", "acc"), ("Arc", "Arc", "acc")],
    ),
    "tokens from compute": (
        "id,Model Size,Training FLOP,loss,loss_stderr\n1,1e9,1e20,2.5,.1\n",
        {"n_params": "Model Size", "n_tokens": "flops/6n", "flops": "Training FLOP"},
        [("loss", "loss", "lm_loss")],
    ),
    "text is no number": (
        "run,param_count,n,tokens,loss_kind,val_bpb\na,standard,1000000,2000000,nats,.9\n",
        {"run": "run", "n_params": "n", "n_tokens": "tokens"},
        [("val_bpb", "val", "lm_bpb")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GUESSES)
def test_columns_are_recognised(tmp_path, kind):
    text, fields, measures = GUESSES[kind]
    if kind == "wide":
        text = text.replace(",100,2000,", ",100000,2000000,").replace("200,4000", "200000,4000000")
    _, found = guess(tmp_path, text)
    assert {key: found[key] for key in fields} == fields
    assert [(m["column"], m["task"], m["metric"]) for m in found["measure"]] == measures


def test_a_column_of_tasks_makes_a_long_table(tmp_path):
    _, found = guess(tmp_path, LONG.replace("what", "task").replace("score", "acc"))
    assert found["measure"] == [{"column": "acc", "task": {"column": "task"}, "metric": "acc"}]
    assert found["run"] == "model"


def test_a_guess_is_read_or_says_what_is_open(tmp_path):
    good = "run,n_params,n_tokens,acc_piqa\na,100000,2000000,0.5\n"
    path, found = guess(tmp_path, good)
    map_file = tmp_path / "map.json"
    map_file.write_text(json.dumps(found))
    frame, problems, _ = from_csv([path], [str(map_file)])
    assert problems == []
    assert frame["value"].tolist() == [0.5]
    path, found = guess(tmp_path, "x,y\n1,2\n")
    map_file.write_text(json.dumps(found))
    refused(lambda: from_csv([path], [str(map_file)]), "run: 'FILL IN: a column, or a text with")


def test_the_command_prints_json_alone(tmp_path, capsys):
    path, found = guess(tmp_path, WIDE)
    ask = ["measure", "--from", "csv", "--runs", path, "--example"]
    assert cli.main(list(map(str, ask))) == 0
    assert json.loads(capsys.readouterr().out) == found
    one_line(capsys, [*ask, "--out", tmp_path / "o.csv"], "leave out --map and --out")
    one_line(capsys, [*ask[:4], tmp_path / "none.csv", "--example"], "none.csv: cannot be read")
