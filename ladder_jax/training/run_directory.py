"""A run's directory: which run it holds, what was measured, and whether the run is done.

Holds `config.json`, `metrics.jsonl`, `checkpoints/` and `evals/`.  Needs no accelerator library.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from fitting.errors import InputError
from fitting.io import write_atomically
from ladder_jax import config_text
from ladder_jax.config import RunConfig


def check_directory(run: RunConfig, directory: Path) -> bool:
    """Whether the directory already is this run's; writes nothing.

    Raises:
        InputError: it belongs to another config.
    """
    if not str(directory) or directory == Path("."):
        raise InputError("`out` must name a directory of the run's own")
    path = directory / "config.json"
    if not path.is_file():
        return False
    theirs = config_text.load_json(RunConfig, path)
    found = config_text.difference(theirs, run)
    if found is not None:
        raise InputError(
            f"{directory} belongs to another config ({found.key} is {found.there!r} there, "
            f"{found.here!r} here): choose another `out`"
        )
    return True


def claim_directory(run: RunConfig, directory: Path) -> None:
    """Writes `config.json` unless the directory already is this run's; see `check_directory`."""
    if not check_directory(run, directory):
        text = config_text.to_json(run)
        write_atomically(directory / "config.json", lambda p: p.write_text(text, encoding="utf-8"))


def is_trained(run: RunConfig, directory: Path) -> bool:
    """Whether the last checkpoint is committed."""
    return (directory / "checkpoints" / str(run.n_steps)).is_dir()


def checkpoint_steps(run: RunConfig) -> list[int]:
    """Steps after which the run is saved, and later scored; the last step is always one."""
    if run.checkpoint_every:
        steps = [*range(run.checkpoint_every, run.n_steps + 1, run.checkpoint_every), run.n_steps]
    else:
        n = max(1, min(run.eval.n_checkpoints, run.n_steps))
        steps = [math.ceil(k * run.n_steps / n) for k in range(1, n + 1)]
    return sorted(set(steps))


def scored_steps(run: RunConfig) -> list[int]:
    """The checkpoints that are scored: `eval.n_checkpoints` of those saved, the last included."""
    saved = checkpoint_steps(run)
    n = min(run.eval.n_checkpoints, len(saved))
    return [saved[math.ceil(k * len(saved) / n) - 1] for k in range(1, n + 1)]


def is_scored(run: RunConfig, directory: Path, step: int) -> bool:
    """Whether a step's held-out loss and tasks are measured."""
    tasks = scores_path(directory, step).is_file() or not run.eval.tasks
    return tasks and eval_path(directory, step, "heldout").is_file()


def is_done(run: RunConfig, directory: Path) -> bool:
    """Whether the run is trained, and every checkpoint measured that is to be."""
    steps = scored_steps(run)
    return is_trained(run, directory) and all(is_scored(run, directory, s) for s in steps)


def scores_path(directory: Path, step: int) -> Path:
    """Where the score store of a step is kept."""
    return directory / "evals" / f"scores-{step:08d}.parquet"


def added_scores_path(directory: Path, step: int) -> Path:
    """Where the score store of tasks added to a step later is kept."""
    return directory / "evals" / f"tasks-{step:08d}.parquet"


def eval_path(directory: Path, step: int, name: str) -> Path:
    """Where the measurements `name` of a step are kept."""
    return directory / "evals" / f"{name}-{step:08d}.json"


def write_eval(
    directory: Path, step: int, task: str, values: dict[str, float], n_examples: int
) -> None:
    """Keeps the metrics of one task at one step, for `measure`."""
    content = {"step": step, "task": task, "values": values, "n_examples": n_examples}
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(
        eval_path(directory, step, task), lambda p: p.write_text(text, encoding="utf-8")
    )
