"""The measurement table: round trips, and a message with its place for each kind of bad row."""

import pandas as pd
import pytest

from fitting import io, table
from fitting.errors import InputError
from fitting.table import COLUMNS


def rows(n: int = 3) -> list[dict]:
    base = {
        "run": "a-1xC", "size": "a", "multiple": 1.0, "seed": 0, "n_params": 1000,
        "n_params_total": 1100, "flops": 6e9, "lr": 1e-3, "lr_peak": 2e-3,
        "task": "arc_easy_test_rc_5shot", "n_examples": 2376,
    }  # fmt: skip
    return [
        base | {"step": s, "n_tokens": 512 * s, "metric": m, "value": v}
        for s in range(1, n + 1)
        for m, v in (("bpb", 1 / (3 * s)), ("acc_per_char", 0.1 * s + 1e-17))
    ]


def frame(records: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(records, columns=list(COLUMNS))


def csv_with(tmp_path, edit) -> str:
    path = tmp_path / "m.csv"
    frame(rows()).to_csv(path, index=False)
    lines = path.read_text().splitlines(keepends=True)
    edit(lines)
    path.write_text("".join(lines))
    return str(path)


def cell(line: int, column: str, text: str):
    def edit(lines):
        fields = lines[line - 1].rstrip("\n").split(",")
        fields[COLUMNS.index(column)] = text
        lines[line - 1] = ",".join(fields) + "\n"

    return edit


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_round_trip_keeps_every_digit(tmp_path, ending):
    path = tmp_path / f"m.{ending}"
    table.write(frame(rows()), path)
    back, problems = table.read(path)
    assert problems == []
    assert list(back.columns) == list(COLUMNS)
    assert back["value"].tolist() == frame(rows())["value"].tolist()
    assert back["step"].dtype == "Int64"


def test_unknown_cells_stay_empty(tmp_path):
    path = tmp_path / "m.csv"
    records = [r | {"lr": None, "seed": None, "n_params": None} for r in rows()]
    table.write(frame(records), path)
    back, _ = table.read(path)
    assert back[["lr", "seed", "n_params"]].isna().all(axis=None)
    assert ",,".join(["", ""]) in path.read_text()


OPTIONAL = {"n_params_non_embedding": 900, "unique_tokens": 300, "batch_tokens": 512,
            "d_model": 8, "n_layers": 2, "init": "a-1xC@3"}  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_optional_columns_are_kept_where_a_table_has_them(tmp_path, ending):
    path = tmp_path / f"m.{ending}"
    table.write(frame(rows()).assign(**OPTIONAL, comment="dropped"), path)
    back, problems = table.read(path)
    assert problems == []
    assert list(back.columns) == [*COLUMNS, *table.OPTIONAL_COLUMNS] == [*COLUMNS, *OPTIONAL]
    assert back[list(OPTIONAL)].iloc[-1].to_dict() == OPTIONAL
    assert back["unique_tokens"].dtype == "Int64"
    some = frame(rows()).assign(unique_tokens=[300, *[None] * 5])
    table.write(some, path)
    back, _ = table.read(path)
    assert list(back.columns) == [*COLUMNS, "unique_tokens"]
    assert back["unique_tokens"].isna().sum() == 5


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("unique_tokens", "0", "unique_tokens is 0: leave it empty if unknown"),
        ("batch_tokens", "2.5", "batch_tokens is 2.5: no integer"),
        ("d_model", "wide", "d_model is 'wide': write a number"),
        ("n_layers", "3", "n_layers is 3.0 where run 'a-1xC' began with 2.0"),
        ("init", "b", "init is b where run 'a-1xC' began with a-1xC@3"),
    ],
)
def test_optional_cells_are_checked(tmp_path, column, text, message):
    path = tmp_path / "m.csv"
    bad = frame(rows()).assign(**OPTIONAL).astype(object)
    bad.loc[2, column] = text
    bad.to_csv(path, index=False)
    (problem,) = table.read(path).problems
    assert problem.row == 4
    assert message in str(problem)


BAD = {
    "NaN": (cell(3, "value", "nan"), 3, "value is 'nan'"),
    "negative loss": (cell(4, "value", "-0.2"), 4, "bpb is -0.2: it cannot be negative"),
    "accuracy above 1": (cell(5, "value", "61.9"), 5, "cannot exceed 1 (fractions, not percent)"),
    "empty value": (cell(2, "value", ""), 2, "value is empty"),
    "no number": (cell(2, "n_tokens", "many"), 2, "n_tokens is 'many': write a number"),
    "half a step": (cell(2, "step", "1.5"), 2, "step is 1.5: no integer"),
    "unknown metric": (cell(2, "metric", "acc_norm"), 2, "metric 'acc_norm' is unknown: use one"),
    "duplicated step": (cell(4, "step", "1"), 4, "has bpb of 'arc_easy_test_rc_5shot' at step 1.0"),
    "two sizes of a run": (cell(6, "n_params", "999"), 6, "n_params is 999"),
    "cut row": (lambda lines: lines.__setitem__(6, lines[6][:30] + "\n"), 7, "fields where the"),
    "no line end": (lambda lines: lines.__setitem__(6, lines[6].strip()), 7, "no line end"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_reported_and_left_out(tmp_path, kind):
    edit, line, text = BAD[kind]
    path = csv_with(tmp_path, edit)
    good, problems = table.read(path)
    assert len(problems) == 1
    assert problems[0].row == line
    assert str(problems[0]).startswith(f"{path}: row {line}: ")
    assert text in str(problems[0])
    assert len(good) == len(rows()) - 1
    with pytest.raises(InputError, match=rf"row {line}: "):
        table.read(path, strict=True)


def test_a_missing_column_is_fatal(tmp_path):
    path = tmp_path / "m.csv"
    frame(rows()).drop(columns="n_tokens").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"m.csv: row 1: column 'n_tokens' is missing; add it"):
        table.read(path)


@pytest.mark.parametrize("content", ["", "run,size\n", "\xff\xfe"])
def test_a_file_that_is_no_table_is_one_line(tmp_path, content):
    path = tmp_path / "m.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        table.read(path)
    assert "\n" not in str(caught.value)


def test_a_bad_frame_is_not_written(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("precious")
    bad = rows()
    bad[1]["value"] = 1.5
    with pytest.raises(InputError, match=r"row 3: acc_per_char is 1\.5"):
        table.write(frame(bad), path)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        io.write_atomically(tmp_path / "out.csv", fail)
    assert list(tmp_path.iterdir()) == []


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither .csv nor .parquet"):
        table.write(frame(rows()), tmp_path / "m.xlsx")
