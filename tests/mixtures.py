"""A mixture of two small sources, and readers of its build."""

import json
from pathlib import Path

import numpy as np

from ladder_jax.config import DataConfig
from ladder_jax.data import (
    pipeline,
)
from ladder_jax.data.mixture import Mixture, SourceConfig, TokenizerConfig

L, UNIT = 32, 1500  # tokens of a sequence; bytes of a unit

WORDS = ["the", "quick", "fox", "jumps", "over", "a", "lazy", "naïve", "owls", "hum", "我们"]


def texts(seed: int, n: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{seed}.{i} " + " ".join(rng.choice(WORDS, rng.integers(5, 60))) for i in range(n)]


def lines(documents: list[str]) -> bytes:
    rows = (json.dumps({"text": text, "id": 3}, ensure_ascii=False) for text in documents)
    return "\n".join(rows).encode()  # the last line has no end


def mixed(folder: Path, **changes) -> Mixture:
    web = SourceConfig(path=str(folder / "[ab].jsonl"), weight=1.0)
    wiki = SourceConfig(path=str(folder / "c.jsonl.gz"), weight=3.0)
    fixed = {
        "sources": {"web": web, "wiki": wiki}, "tokenizer": TokenizerConfig("", 300, 64),
        "seq_len": L, "n_tokens": 80_000, "heldout_fraction": 0.1, "unit_mb": 1,
    }  # fmt: skip
    return Mixture(**fixed | changes)


def files(out: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def read(out: Path) -> pipeline.Packed:
    return pipeline.prepare(DataConfig(source="built", path=str(out), vocab_size=300), L, out)
