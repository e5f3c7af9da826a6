"""Writes an experiment file for a user's own text, sized to that text."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from fitting.errors import InputError
from fitting.io import write_atomically
from ladder_jax.config import DataConfig, ModelConfig
from ladder_jax.data import documents, sources
from ladder_jax.data.pipeline import Packed, prepare
from ladder_jax.models import counts
from ladder_jax.runtime.paths import cache_dir
from ladder_jax.tasks import made

SEQ_LEN, VOCAB_SIZE = 128, 1024
_SIZES = {"66K": (32, 2), "118K": (40, 3), "209K": (56, 3)}  # label -> width, layers
_TARGET = ("329K", (64, 4))
_BEYOND = 3.0  # tokens of the target over those of the largest run
_MULTIPLES = (0.25, 0.5, 1.0)  # of the largest multiple
_TOKENS_PER_PARAM = 20
_LARGEST_MULTIPLE, _LEAST_MULTIPLE = 1.0, 0.1  # with fewer tokens a run ends before its warm-up


class Written(NamedTuple):
    """Facts about the text, and the tasks that the written experiment has.

    Attributes:
        n_tokens: training tokens of the text.
        n_documents: documents of the text, held-out ones included.
        tasks: tasks that the held-out text allows.
        epochs: how often the target reads the text.
    """

    n_tokens: int
    n_documents: int
    tasks: tuple[str, ...]
    epochs: float


def write(path: str | Path, text: str | Path) -> Written:
    """Writes a commented experiment whose ladder fits the text.

    Multiples are chosen so that no run, the target included, reads the text more than once, unless
    a run would then have too few steps to learn anything.

    Args:
        path: the new `.py` file.
        text: a directory or file that `data.source local` can read.

    Raises:
        InputError: the file exists already or cannot be written, or the text cannot be read.
    """
    path, text = Path(path), Path(text).expanduser()
    if path.suffix != ".py":
        raise InputError(f"{path}: name a .py file")
    if not re.fullmatch(r"[\w.+-]+", path.stem):
        raise InputError(f"{path}: name the file with letters, digits, and . _ + - only")
    if os.path.lexists(path):
        raise InputError(f"{path}: exists already: name another file, or remove it")
    if not text.exists():
        raise InputError(f"`text` {str(text)!r} does not exist: give a file or a directory")
    data = DataConfig(source="local", path=str(text.resolve()), vocab_size=VOCAB_SIZE)
    corpus = sources.load(data)
    packed = prepare(data, SEQ_LEN, cache_dir())
    tasks = _possible_tasks(corpus, packed, data.seed)
    n_tokens = packed.info.n_tokens["train"]
    largest = _largest_multiple(n_tokens)
    content = _FILE.format(
        stem=path.stem,
        path=json.dumps(str(text.resolve()), ensure_ascii=False),
        vocab_size=VOCAB_SIZE,
        seq_len=SEQ_LEN,
        n_tokens=f"{n_tokens:,}",
        tasks="".join(f'"{name}", ' for name in tasks).strip(),
        chance=", ".join(f'"{name}": {chance:g}' for name, chance in tasks.items()),
        sizes=", ".join(f'"{k}": _model({d}, {n})' for k, (d, n) in _SIZES.items()),
        multiples=repr(tuple(float(f"{largest * m:.3g}") for m in _MULTIPLES)),
        target=_TARGET[0],
        target_model=f"_model({_TARGET[1][0]}, {_TARGET[1][1]})",
        target_multiple=float(f"{_target_multiple(largest):.3g}"),
    )
    write_atomically(path, lambda p: p.write_text(content, encoding="utf-8"))
    longest = _TOKENS_PER_PARAM * _n_params(*_TARGET[1]) * _target_multiple(largest)
    n_documents = len(corpus.train) + len(corpus.heldout)
    return Written(n_tokens, n_documents, tuple(tasks), longest / n_tokens)


def _possible_tasks(corpus: documents.Corpus, packed: Packed, seed: int) -> dict[str, float]:
    """Made task -> accuracy of guessing, for the tasks that the held-out text allows."""
    found = {}
    for name in made.BUILDERS:
        try:
            (task,) = made.build([name], [d.text for d in corpus.heldout], packed.tokenizer, seed)
        except InputError:
            continue
        found[name] = task.chance
    return found


def _n_params(d_model: int, n_layers: int) -> int:
    return counts.n_params(
        ModelConfig(d_model=d_model, n_heads=2, n_layers=n_layers, d_ff=4 * d_model,
                    vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
    )  # fmt: skip


def _target_multiple(largest: float) -> float:
    """The target's multiple: `_BEYOND` times the tokens of the largest run."""
    biggest = max(_n_params(*shape) for shape in _SIZES.values())
    return _BEYOND * largest * biggest / _n_params(*_TARGET[1])


def _largest_multiple(n_tokens: int) -> float:
    """The largest multiple of the grid with which the target reads the text at most once."""
    once = n_tokens / (_TOKENS_PER_PARAM * _n_params(*_TARGET[1]) * _target_multiple(1.0))
    return min(_LARGEST_MULTIPLE, max(_LEAST_MULTIPLE, once))


_FILE = '''"""A ladder of tiny models on my own text, and a larger target.

Plan it:  ladder plan {stem}.py
Run it:   ladder run {stem}.py --out {stem}
"""

from dataclasses import replace

from ladder_jax.config import DataConfig, EvalConfig, ModelConfig, RunConfig
from ladder_jax.ladder import Ladder, Recipe, Target


def _model(d_model: int, n_layers: int) -> ModelConfig:
    # All sizes have one shape: only width and depth differ.
    return ModelConfig(
        d_model=d_model, n_heads=2, n_layers=n_layers, d_ff=4 * d_model,
        vocab_size={vocab_size}, seq_len={seq_len}, init_std=0.0,  # 0: D^-0.5
    )


# The text has {n_tokens} training tokens.  A tenth of the documents is held out.
_DATA = DataConfig(source="local", path={path}, vocab_size={vocab_size})

# Every checkpoint is scored on the held-out loss and on tasks made from the held-out text.  Labels
# of public tasks and paths of .jsonl files are possible, too.
_TASKS = ({tasks})
_BASE = RunConfig(data=_DATA, eval=EvalConfig(tasks=_TASKS, n_checkpoints=5, heldout_tokens=65_536))

# Hyper-parameters as functions of the number of parameters N.  A constant batch suits such small
# models; for larger ones keep the defaults, which are those of arXiv 2412.04403.
_RECIPE = Recipe(batch_seqs_ref=8, batch_exponent=0.0, batch_granularity=8, lr_ref=0.6 * 0.0047)

# The run to forecast.  It is trained with the ladder, and scored only after its forecast is locked.
# checkpoint_every: save it as often as the others; n_checkpoints: score it once, at its end.
_BEYOND = Ladder(
    "{stem}",
    {{"{target}": {target_model}}},
    ({target_multiple},),
    _RECIPE,
    replace(_BASE, checkpoint_every=1000, eval=replace(_BASE.eval, n_checkpoints=1)),
)

LADDER = Ladder(
    name="{stem}",
    # At least two sizes to fit, three for a backtest.
    sizes={{{sizes}}},
    multiples={multiples},  # of 20 tokens a parameter
    recipe=_RECIPE,
    base=_BASE,
    targets={{run.name: Target(run, run.n_tokens) for run in _BEYOND.runs()}},
    # seeds=(0, 1, 2),  # each run once more with other initial parameters and another order
)

# How the target is forecast: optional fields of fitting.forecast.ForecastSpec.  "c": from compute.
FORECAST = {{
    "method": "bayes",
    "inputs": "c",
    # Accuracies of guessing.
    "chance": {{{chance}}},
}}
'''
