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
_WRITE_ONE = "`ladder init FILE.py --text DIR` writes an example"


@dataclass(frozen=True)
class Experiment:
    """A ladder, and how its targets are forecast.

    Attributes:
        name: name of a shipped experiment, or the stem of the user's file.
        ladder: the runs and the targets.
        forecast: optional fields of `fitting.forecast.ForecastSpec`; None if the file defines no
            `FORECAST`.
        path: the file; None if the experiment was made in memory.
    """

    name: str
    ladder: Ladder
    forecast: Mapping[str, Any] | None = field(default_factory=dict)
    path: Path | None = None


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
    return Experiment(path.parent.name if shipped else path.stem, ladder, forecast, path)


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
    name = f"ladder_experiment_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.append(str(path.parent))  # last, so that nothing there hides an installed package
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        raise InputError(f"{path}: {_row(e, path)}{_reason(e)}") from None
    finally:
        sys.path.remove(str(path.parent))
    return module


def _row(error: Exception, path: Path) -> str:
    """`row N: `, where N is the last row of the file in the traceback; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"row {error.lineno}: "
    rows = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"row {rows[-1]}: " if rows else ""


def _reason(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"is not valid Python ({error.msg}): correct it"
    if isinstance(error, ModuleNotFoundError):
        return f"cannot import {error.name!r}: install it, or correct the name"
    return f"{type(error).__name__}: {first_line(error)}: correct it"
