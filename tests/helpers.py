"""Helpers of several test modules: text, tiny models, and checks of error messages."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from fitting.errors import InputError
from ladder_jax import cli
from ladder_jax.config import ModelConfig
from ladder_jax.training.metrics_log import read

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "naïve",
    "owls",
    "hum",
    "我们",
    "softly",
]

# The model of the runs that tests train; zero weights make the first losses equal.
MODEL = ModelConfig(
    d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_size=304, seq_len=16, init_std=0.0
)

# Models in the layout of Hugging Face: the one in golden/, and one whose vocabulary is trained.
OLMO2 = ModelConfig(
    d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, d_ff=48, vocab_size=64, seq_len=64
)
BIG = ModelConfig(d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_size=320, seq_len=16)


def story(seed: int, n: int = 120) -> str:
    """A line of `n` random words; a seed always gives the same ones."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, n)) + "\n"


def write_jsonl(path: Path, rows) -> Path:
    """A file of one JSON object per line, and its folder; returns the path."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def results(directory: Path):
    """All scores and all logged losses of a run directory, to compare two runs to the bit."""
    evals = {p.name: p.read_text() for p in sorted((directory / "evals").iterdir())}
    losses = [(r["step"], r["loss"], r["grad_norm"], r["lr"]) for r in read(directory)]
    return evals, losses


def contents(root: Path) -> dict[Path, int]:
    """The files below a folder and when each was last written."""
    return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def same(a, b) -> bool:
    """Two trees of arrays are equal to the bit; NaN equals NaN."""
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b))


def refused(call, *parts: str) -> str:
    """Asserts that a call raises an InputError of one line with these parts; returns the line."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for words in parts:
        assert words in text
    return text


def fails(match: str, function, *args) -> None:
    """Asserts that `function(*args)` raises an InputError of one line that matches the pattern."""
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    assert "\n" not in str(caught.value)


def one_line(capsys, arguments, *parts: str) -> str:
    """Asserts that `ladder` exits with 2 and one line with these parts; returns the line."""
    capsys.readouterr()
    assert cli.main(list(map(str, arguments))) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"ladder {arguments[0]}: ")
    assert len(text.splitlines()) == 1
    for words in parts:
        assert words in text
    return text
