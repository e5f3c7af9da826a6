"""An experiment is a Python file that defines a ladder and how its targets are forecast.

Shipped experiments (`experiments/NAME/config.py`) and a user's own file are loaded by one function,
by their path: nothing here imports `experiments` by name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from fitting.errors import InputError, first_line
from ladder_jax.ladder import Ladder

_SHIPPED = Path(__file__).resolve().parents[1] / "experiments"
_PREFIX = "ladder_experiment_"  # of the modules of loaded files
_WRITE_ONE = "`ladder init FILE.py --text DIR` writes an example"


@dataclass(frozen=True)
class Experiment:
    """A ladder, and how its targets are forecast.

    Attributes:
        ladder: the runs and the targets.
        forecast: optional fields of `fitting.forecast.ForecastSpec`; None if the file defines no
            `FORECAST`.
        name: of a shipped experiment, or the stem of the user's file; by default the ladder's.
        path: of the file; None if the experiment was made in memory.
    """

    ladder: Ladder
    forecast: Mapping[str, Any] | None = field(default_factory=dict)
    name: str = ""
    path: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.ladder.name)


def load(name: str | Path) -> Experiment:
    """Loads a shipped experiment by its name, or any other by the path of its `.py` file.

    The file defines `LADDER`, a `Ladder`, and optionally `FORECAST`, a dict.  It may import modules
    from its own folder.

    Raises:
        InputError: there is no such experiment, or the file cannot be run or defines no ladder; the
            message names the file, the row where it is known, and what to do.
    """
    path = _find(str(name))
    module = _run_file(path)
    where = str(path)
    if not hasattr(module, "LADDER"):
        raise InputError(f"{where}: defines no LADDER: add LADDER = Ladder(...); {_WRITE_ONE}")
    ladder, forecast = module.LADDER, getattr(module, "FORECAST", None)
    if not isinstance(ladder, Ladder):
        kind = type(ladder).__name__
        raise InputError(f"{where}: LADDER is of type {kind}: make it a ladder_jax.ladder.Ladder")
    if forecast is not None and not isinstance(forecast, Mapping):
        kind = type(forecast).__name__
        raise InputError(f"{where}: FORECAST is of type {kind}: make it a dict, {{}} is enough")
    shipped = path.parent.parent == _SHIPPED
    return Experiment(ladder, forecast, path.parent.name if shipped else path.stem, path)


def shipped() -> list[str]:
    """Names of the shipped experiments that have a ladder, sorted."""
    return sorted(path.parent.name for path in _SHIPPED.glob("*/config.py"))


def shipped_file(*parts: str) -> Path:
    """The path of a file that is shipped with the experiments, such as a mixture."""
    return _SHIPPED.joinpath(*parts)


def _find(name: str) -> Path:
    if name in shipped():
        return _SHIPPED / name / "config.py"
    path = Path(name).expanduser()
    if path.suffix == ".py" and path.is_file():
        return path.resolve()
    if path.is_dir() and name not in ("", "."):
        raise InputError(f"{name}: is a directory: name the .py file in it that defines LADDER")
    known = ", ".join(shipped())
    what = "file" if path.suffix == ".py" else "experiment"
    raise InputError(
        f"no {what} {name!r}: name one of {known}, or the path of a .py file; {_WRITE_ONE}"
    )


def _run_file(path: Path) -> ModuleType:
    """Runs a file as a module under a unique name, so that it replaces no other module."""
    name = f"{_PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    before = set(sys.modules)
    sys.path.append(str(path.parent))  # last, so that nothing there hides an installed package
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as e:
        del sys.modules[name]
        raise InputError(f"{path}: {_row(e, path)}{_reason(e)}") from None
    finally:
        sys.path.remove(str(path.parent))
        _forget(before, path.parent)
    return module


def _forget(before: set[str], folder: Path) -> None:
    """Forgets modules imported from the folder itself: another folder may have the same names.

    Packages installed below the folder, and new parts of packages that were imported before, stay.
    """
    own = {name for name in set(sys.modules) - before if _stands_in(name, folder)}
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in own:
            del sys.modules[name]


def _stands_in(name: str, folder: Path) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    places = (folder / f"{name}.py", folder / name / "__init__.py")
    return bool(file) and Path(file).resolve() in places


def _row(error: BaseException, path: Path) -> str:
    """`row N: `, where N is the last row of the file in the traceback; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"row {error.lineno}: "
    rows = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"row {rows[-1]}: " if rows else ""


def _reason(error: BaseException) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, SystemExit):
        return "ends the program: remove that, or put it under `if __name__ == '__main__':`"
    if isinstance(error, SyntaxError):
        return f"is not valid Python ({error.msg}): correct it"
    if isinstance(error, ModuleNotFoundError):
        return f"cannot import {error.name!r}: install it, or correct the name"
    return f"{type(error).__name__}: {first_line(error)}: correct it"
