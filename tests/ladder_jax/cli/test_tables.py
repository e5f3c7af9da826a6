"""`ladder measure --from csv`: a table from files and maps, and each mistake in its flags."""

import os

from fitting import table
from ladder_jax import cli
from tests.csv_maps import MAP, WIDE, write
from tests.helpers import one_line


def test_measure_reads_any_csv(tmp_path, capsys):
    file, map_ = write(tmp_path)
    out = tmp_path / "m.csv"
    ask = ["measure", "--from", "csv", "--runs", file, "--map", map_, "--out", str(out)]
    assert cli.main([*ask, "--strict"]) == 0
    text = capsys.readouterr().out
    assert "note: t.csv: columns that the map does not use: note" in text
    assert f"{out}: 5 measurements of 3 runs and 2 tasks" in text
    frame, problems = table.read(out, strict=True)
    assert problems == []
    assert len(frame) == 5


def test_a_bad_row_is_left_out_and_strict_fails(tmp_path, capsys):
    file, map_ = write(tmp_path, WIDE.replace("0.75", "75"))
    out = tmp_path / "m.csv"
    ask = ["measure", "--from", "csv", "--runs", file, "--map", map_, "--out", str(out)]
    assert cli.main([*ask, "--strict"]) == 2
    assert "row 4: acc_piqa: acc is 75" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["t.csv", "t.json"]
    assert cli.main(ask) == 0
    assert len(table.read(out).frame) == 4


def test_wrong_flags_get_one_line(tmp_path, capsys):
    file, map_ = write(tmp_path)
    out = tmp_path / "m.csv"
    csv, to = ["measure", "--from", "csv"], ["--out", out]
    one_line(capsys, [*csv, "--map", map_, *to], "--runs FILE.csv is needed")
    one_line(capsys, [*csv, "--runs", file, *to], "--map MAP.json is needed; --example prints one")
    one_line(capsys, [*csv, "--runs", file, "--map", map_], "--out FILE is needed")
    one_line(capsys, [*csv, "--runs", file, "--map", "gader", *to], "--map 'gader'", "'gadre'")
    one_line(capsys, [*csv, "--runs", file, file, "--map", map_, *to], "--map: 1 for 2 files")
    one_line(capsys, [*csv, "--runs", file, "--map", map_, "--out", file], "which is read")
    runs = ["measure", "--runs", tmp_path]
    one_line(capsys, [*runs, "--map", map_, *to], "--map and --example are for --from csv")
    one_line(
        capsys, ["measure", "--runs", tmp_path, tmp_path, *to], "--runs: 2 are named: name one"
    )
    assert not out.exists()
    write(tmp_path, map_={**MAP, "n_params": "param"})
    one_line(capsys, [*csv, "--runs", file, "--map", map_, *to], "the nearest is 'params'")
