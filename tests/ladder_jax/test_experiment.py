"""Experiments are files: found by name or path, and an error in one gives one line."""

import sys
from pathlib import Path

import pytest

from fitting.errors import InputError
from ladder_jax import cli, experiment
from tests.helpers import ROOT

GOOD = """
from ladder_jax.config import ModelConfig
from ladder_jax.ladder import Ladder
from helper import SIZE  # beside the file

LADDER = Ladder("mine", {"S": ModelConfig(d_model=SIZE, n_heads=2)}, (1, 2))
"""
IMPORTS = "from ladder_jax.config import *\nfrom ladder_jax.ladder import *\n"
BAD = {
    "import not_installed": "row 1: cannot import 'not_installed': install it",
    "x = 1": "defines no LADDER: add LADDER = Ladder",
    "LADDER = {}": "LADDER is of type dict: make it a ladder_jax.ladder.Ladder",
    "x = 1\ndef f(:": "row 2: is not valid Python",
    IMPORTS + "LADDER = Ladder('a', {'s': ModelConfig()}, (1, 2, 1))": (
        "row 3: ladder 'a': multiple 1 occurs twice: remove"
    ),
    IMPORTS + "LADDER = Ladder('a', {'s': ModelConfig()}, (1,), seeds=(3, 3))": (
        "row 3: ladder 'a': seed 3 occurs twice"
    ),
    IMPORTS
    + "LADDER = Ladder('a', {'s': 190}, (1,))": "size 's' is of type int: make it a ModelConfig",
    IMPORTS + "LADDER = Ladder('a', {}, (1,))": "sizes is empty",
    IMPORTS
    + "LADDER = Ladder('a', {'s': ModelConfig()}, ('1',))": "multiple '1' must be a positive",
    IMPORTS + "m = ModelConfig(d_model=7)": "row 3: model.n_heads must divide model.d_model",
    IMPORTS + "LADDER = Ladder('a', {'s': ModelConfig()}, (1,))\nFORECAST = 3": (
        "FORECAST is of type int: make it a dict"
    ),
    IMPORTS
    + "LADDER = Ladder('a', [ModelConfig()], (1,))": "sizes is of type list: make it a dict",
    IMPORTS
    + "LADDER = Ladder('a', {'s': ModelConfig()}, 0.5)": "multiples is 0.5: make it a tuple",
    IMPORTS + "LADDER = Ladder('a', {'../s': ModelConfig()}, (1,))": "run name '../s-1xC': use",
    IMPORTS + "LADDER = Ladder('a', {'s': ModelConfig()}, (1,), seeds=(0.5,))": "seed 0.5 must be",
    IMPORTS + "Target(RunConfig(name='t'), 'many')": "target 't': n_tokens 'many' must be",
    "import sys\nsys.exit(0)": "row 2: ends the program",
    "1 / 0": "row 1: ZeroDivisionError: division by zero: correct it",
}


def test_shipped_experiments_are_found_by_name():
    assert {"quickstart", "task_ladders"} <= set(experiment.shipped())
    loaded = experiment.load("task_ladders")
    assert (loaded.name, len(loaded.ladder.runs())) == ("task_ladders", 16)
    assert loaded.path == ROOT / "experiments" / "task_ladders" / "config.py"
    assert experiment.shipped_file("task_ladders", "mixture.json").is_file()


def test_a_file_is_found_by_its_path_and_may_import_what_is_beside_it(tmp_path, monkeypatch):
    (tmp_path / "helper.py").write_text("SIZE = 64")
    (tmp_path / "mine.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "./mine.py", str(tmp_path / "mine.py"), Path("mine.py")):
        loaded = experiment.load(name)
        assert loaded.name == "mine"
        assert loaded.forecast is None
        assert [run.name for run in loaded.ladder.runs()] == ["S-1xC", "S-2xC"]


def test_files_and_folders_of_the_projects_names_do_no_harm(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert experiment.load("quickstart").name == "quickstart"


@pytest.mark.parametrize("source", BAD)
def test_what_is_wrong_with_a_file_is_one_line(source, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(InputError) as caught:
        experiment.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert BAD[source] in str(caught.value)
    assert cli.main(["plan", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("no_such", "no experiment 'no_such': name one of quickstart"),
        ("no_such.py", "no file 'no_such.py'"),
        ("", "no experiment ''"),
        ("experiments", "is a directory: name the .py file in it"),
    ],
)
def test_an_experiment_that_is_not_there_is_named(name, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=line):
        experiment.load(name)


def test_generators_are_kept_and_modules_of_two_folders_apart(tmp_path):
    for folder, multiples in (("a", "(0.5, 1)"), ("b", "(2,)")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "beside.py").write_text(f"MULTIPLES = {multiples}\n")
        (tmp_path / folder / "mine.py").write_text(
            IMPORTS + "import beside\n"
            "LADDER = Ladder('x', {'s': ModelConfig()}, (m for m in beside.MULTIPLES))\n"
        )
    found = [experiment.load(tmp_path / folder / "mine.py") for folder in "ab"]
    assert [made.ladder.multiples for made in found] == [(0.5, 1), (2,)]
    assert len(found[0].ladder.runs()) == 2


def test_a_package_installed_below_the_folder_is_imported_once(tmp_path, monkeypatch):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "installed_below.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "env")
    path = tmp_path / "mine.py"
    path.write_text(
        IMPORTS + "import installed_below\nLADDER = Ladder('x', {'s': ModelConfig()}, (1,))\n"
    )
    experiment.load(path)
    assert sys.modules.pop("installed_below").x == 1
