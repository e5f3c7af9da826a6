"""Checks that data flows one way: the order of the packages, and which may import which.

A folder or file imports only from those before it in `FLOORS`; lazy imports count, imports under
`TYPE_CHECKING` do not.  No file imports itself through others.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = (
    "fitting.errors",
    "fitting.io",
    "fitting.table",
    "fitting.laws",
    "fitting.observations",
    "fitting.solve",
    "fitting.posterior",
    "fitting.forecast",
    "fitting.evaluation",
    "fitting.advise",
    "fitting.report",
    "ladder_jax.config",
    "ladder_jax.config_text",
    "ladder_jax.runtime",
    "ladder_jax.parallel",
    "ladder_jax.models",
    "ladder_jax.ladder",
    "ladder_jax.experiment",
    "ladder_jax.downloads",
    "ladder_jax.tasks",
    "ladder_jax.data",
    "ladder_jax.hf",
    "ladder_jax.training",
    "ladder_jax.eval",
    "ladder_jax.aot",
    "ladder_jax.measurements",
    "ladder_jax.launch",
    "ladder_jax.study",
    "ladder_jax.template",
    "ladder_jax.cli",
    "experiments",
)
OPEN_TO_ALL = (
    "fitting.errors",
    "fitting.io",
    "fitting.table",
)  # what ladder_jax imports of fitting
WHOLE_OF_FITTING = ("ladder_jax.study", "ladder_jax.cli", "experiments")
IMPORTS = ("import_module", "__import__")  # functions that import
ONLY_IN = {  # library -> the only packages that may import it
    "jax.sharding": ("ladder_jax.parallel",),
    "flax": ("ladder_jax.models",),
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_of(path): path
    for package in ("fitting", "ladder_jax", "experiments")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(source: str, known=FILES) -> set[str]:
    """Modules that a file imports, at its top or later: those of `known` by their full names."""
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        assert getattr(node, "level", 0) in (0, None), "write the full name, no relative import"
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = {name for name in names if name in known}
            found |= inner | ({node.module} if len(inner) < len(names) else set())
            found |= {name for name in names if name in ONLY_IN}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(IMPORTS):
            found |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return found


def floor_of(module: str) -> int | None:
    """The last floor whose name begins the module's; None for the two packages themselves."""
    fits = [i for i, f in enumerate(FLOORS) if module == f or module.startswith(f"{f}.")]
    return fits[-1] if fits else None


def upward(module: str, imports: set[str]) -> set[str]:
    """The imports that the order does not allow."""
    own, bad = floor_of(module), set()
    for name in imports:
        package = name.split(".")[0]
        if package in ("fitting", "ladder_jax", "experiments"):
            floor = floor_of(name)
            if floor is not None and own is not None and floor > own:
                bad.add(name)
            if package == "experiments" and not module.startswith("experiments"):
                bad.add(name)
            if module.startswith("fitting") and package != "fitting":
                bad.add(name)
            if (
                package == "fitting"
                and module.startswith("ladder_jax")
                and not name.startswith(OPEN_TO_ALL)
                and not module.startswith(WHOLE_OF_FITTING)
            ):
                bad.add(name)
        for library, allowed in ONLY_IN.items():
            if (name == library or name.startswith(f"{library}.")) and not (
                module.startswith(allowed) or module.startswith("experiments.benchmarks")
            ):
                bad.add(name)
    return bad


@pytest.mark.parametrize("module", FILES)
def test_imports_point_one_way(module):
    assert upward(module, imported(FILES[module].read_text())) == set()


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of the graph as a path; empty if there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if found := visit(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_no_file_imports_itself_through_others():
    graph = {m: (imported(p.read_text()) & set(FILES)) - {m} for m, p in FILES.items()}
    # A package's own file only gathers what its modules define.
    graph = {
        m: {n for n in names if not m.startswith(f"{n}.")}
        for m, names in graph.items()
    }  # fmt: skip
    assert circle(graph) == []


def test_no_two_public_classes_share_a_name():
    places: dict[str, list[str]] = {}
    for name, path in FILES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_every_file_has_a_floor():
    roots = {"fitting", "ladder_jax"}
    assert [m for m in FILES if floor_of(m) is None and m not in roots] == []


def test_the_rules_see_each_form_of_import():
    source = "\n".join([
        "import jax.sharding",
        "from ladder_jax import measurements",
        "def late():",
        "    from ladder_jax.cli import main",
        "    import importlib",
        "    importlib.import_module('experiments.quickstart.config')",
        "if TYPE_CHECKING:",
        "    from ladder_jax import study",
    ])  # fmt: skip
    found = imported(source)
    expected = {"jax.sharding", "ladder_jax.measurements", "ladder_jax.cli"}
    assert expected | {"importlib", "experiments.quickstart.config"} == found
    assert upward("ladder_jax.models.decoder", found) == found - {"importlib"}
    assert upward("ladder_jax.parallel.mesh", {"jax.sharding"}) == set()
    assert upward("fitting.laws.loss", {"fitting.solve.fit"}) == {"fitting.solve.fit"}
    assert upward("ladder_jax.eval.metrics", {"fitting.forecast"}) == {"fitting.forecast"}


def test_circles_are_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
