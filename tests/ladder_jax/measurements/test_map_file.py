"""The JSON of a map: each mistake gets one line with the place and the nearest name."""

import json
import re

import pytest

from ladder_jax.measurements import map_file
from ladder_jax.measurements.column_map import nearest
from ladder_jax.measurements.map_file import read_map
from ladder_jax.measurements.wide_csv import from_csv
from tests.csv_maps import MAP, write
from tests.helpers import ROOT, refused


def measure(**changes):
    return {**MAP, "measure": [{**MAP["measure"][0], **changes}]}


def with_(**changes):
    return {**MAP, **changes}


BAD_MAPS = {
    "no JSON": ('{"run": ', "is no map in JSON: Expecting value"),
    "a key twice": ('{"run": "a", "run": "b"}', "'run' is there twice: remove one"),
    "NaN": ('{"run": NaN}', "NaN is no number"),
    "a list": ([1], "write an object with base, note, where, run"),
    "no run": ({"measure": MAP["measure"]}, "'run' is missing: add it"),
    "no measure": ({"run": "a"}, "'measure' is missing: add it"),
    "an empty measure": (with_(measure=[]), "measure: write a list"),
    "an unknown key": (
        with_(n_param="params"), "key 'n_param' is unknown; the nearest is 'n_params'"
    ),
    "an unknown form": (
        with_(n_tokens={"column": "tokens", "time": 2}),
        "n_tokens: key 'time' is unknown; the nearest is 'times'",
    ),
    "two forms": (
        with_(n_tokens={"sum": ["tokens", 1], "column": "tokens"}),
        "n_tokens: key 'column' is unknown",
    ),
    "one term": (with_(n_tokens={"sum": ["tokens"]}), "'sum': write a list of two or more"),
    "a text for a number": (
        with_(n_tokens={"column": "tokens", "times": "2"}), 'n_tokens: "2" is no number'
    ),
    "true for a number": (with_(n_tokens=True), "n_tokens: true is no number"),
    "an open brace": (with_(run="{data-{run_name}"), "has a brace without its other one"),
    "a text as list": (with_(where={"data": "c4"}), "where 'data': write a list of values"),
    "no values": (with_(n_params={"column": "data", "values": {}}), "'values' is no object"),
    "a number as text": (
        with_(size={"column": "data", "values": {"c4": 1}}), "'values' has a value that is no text"
    ),
}  # fmt: skip
BAD_MEASURES = {
    "key": (measure(tasks="x"), "key 'tasks' is unknown; the nearest is 'task'"),
    "metric": (
        measure(metric="acc_per_chars"),
        "metric 'acc_per_chars' is unknown; the nearest is 'acc_per_char'",
    ),
    "metric of a lookup": (
        measure(metric={"column": "note", "values": {"x": "accuracy"}}),
        "metric 'accuracy' is unknown",
    ),
    "column": (
        measure(column="loss_c5"),
        "{file} has no column 'loss_c5'; the nearest is 'loss_c4'",
    ),
}
BAD_COLUMNS = {
    "n_params": (with_(n_params="param"), "has no column 'param'; the nearest is 'params'"),
    "run": (with_(run="{dat}-{run_name}"), "has no column 'dat'; the nearest is 'data'"),
    "where 'Data'": (
        with_(where={"Data": ["c4"]}), "has no column 'Data'; the nearest is 'data'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", BAD_COLUMNS)
def test_a_wrong_column_names_the_nearest_and_the_file(tmp_path, place):
    bad, message = BAD_COLUMNS[place]
    file, json_file = write(tmp_path, map_=bad)
    refused(lambda: from_csv([file], [json_file]), f"{json_file}: {place}: {file} {message}")


@pytest.mark.parametrize("kind", BAD_MEASURES)
def test_a_bad_measure_is_counted(tmp_path, kind):
    bad, message = BAD_MEASURES[kind]
    file, json_file = write(tmp_path, map_=bad)
    message = message.replace("{file}", file)
    refused(lambda: from_csv([file], [json_file]), f"{json_file}: measure 1: {message}")


def test_what_a_guess_left_open_is_to_be_filled_in(tmp_path):
    file, json_file = write(tmp_path, map_=with_(n_params="FILL IN: a column"))
    message = f"n_params: 'FILL IN: a column': write a column of {file}"
    refused(lambda: from_csv([file], [json_file]), message)


@pytest.mark.parametrize("kind", BAD_MAPS)
def test_a_bad_map_gets_one_line(tmp_path, kind):
    bad, message = BAD_MAPS[kind]
    file, json_file = write(tmp_path, map_=bad)
    text = refused(lambda: from_csv([file], [json_file]), message)
    assert text.startswith(f"{json_file}: ")


def test_a_map_may_begin_with_another(tmp_path):
    file, json_file = write(tmp_path)
    child = tmp_path / "child.json"
    child.write_text(json.dumps({"base": json_file, "run": "run_name", "where": {"data": ["rpj"]}}))
    frame, _, _ = from_csv([file], [str(child)])
    assert set(frame["run"]) == {"c"}
    child.write_text(json.dumps({"base": str(child)}))
    refused(lambda: read_map(str(child)), "leads back to itself")


def test_an_unknown_map_names_the_nearest_shipped_one(tmp_path):
    refused(lambda: read_map("gadre_c4"), "`map` 'gadre_c4' is neither", "is 'gadre-c4'")
    refused(
        lambda: read_map(str(tmp_path / "none.json")), "none.json: cannot be read: No such file"
    )


@pytest.mark.parametrize("name", map_file.shipped())
def test_shipped_maps_are_valid_and_say_what_they_are(name):
    found = read_map(name)
    assert found.note
    assert found.measures


def test_the_maps_of_the_documentation_are_valid(tmp_path):
    text = (ROOT / "docs" / "own_measurements.md").read_text(encoding="utf-8")
    whole, entry = re.findall(r"```json\n(.*?)```", text, re.S)
    for given in (json.loads(whole), {"run": "model", "measure": [json.loads(entry)]}):
        path = tmp_path / "map.json"
        path.write_text(json.dumps(given))
        assert read_map(str(path)).measures
    listed = set(re.findall(r"`([\w-]+)`", text[text.index("### Shipped maps") :]))
    assert set(map_file.shipped()) <= listed


def test_the_nearest_word_ignores_case():
    assert nearest("LOSS", ["LOGS", "loss"]) == "loss"
