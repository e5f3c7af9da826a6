"""Data flows one way: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("ladder_jax", "fitting", "experiments")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in (*OURS, "flax", "jax")}


def forbidden(path: Path) -> set[str]:
    package, names = path.relative_to(ROOT).parts[0], imports(path)
    if package == "fitting":
        return {n for n in names if n.split(".")[0] in ("ladder_jax", "experiments", "flax")}
    if package == "ladder_jax":
        bad = {n for n in names if n.split(".")[0] == "experiments"}
        if path.parent.name == "cli":  # the front door
            return bad - {"experiments"}
        fits = {n for n in names if n.split(".")[0] == "fitting"}
        bad |= {
            n
            for n in fits
            if n != "fitting"
            and not n.startswith(("fitting.errors", "fitting.io", "fitting.table"))
        }
        if path.parent.name != "parallel":
            bad |= {n for n in names if n.startswith("jax.sharding")}
        return bad
    return set()


@pytest.mark.parametrize(
    "path", [p for name in OURS for p in sorted((ROOT / name).rglob("*.py"))], ids=str
)
def test_imports_point_one_way(path):
    assert forbidden(path) == set()


def test_the_rule_sees_both_forms_of_import(tmp_path):
    bad = tmp_path / "fitting.py"
    bad.write_text("from ladder_jax import measurements\nimport flax")
    assert imports(bad) == {"ladder_jax", "ladder_jax.measurements", "flax"}
