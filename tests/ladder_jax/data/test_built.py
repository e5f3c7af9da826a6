"""A finished build, read by training: complete, with the right shares, batches and readers."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fitting.errors import InputError
from ladder_jax.config import DataConfig
from ladder_jax.data import (
    built,
    pipeline,
    shards,
    sources,
)
from ladder_jax.models.protocol import PADDING
from tests.mixtures import L, read, texts
from tests.processes import children, lives, until


def test_every_document_is_in_one_part_and_whole(whole):
    packed, found = read(whole), {}
    for part, records in packed.parts.items():
        found[part] = []
        for segment in records.segments:
            for file, n in segment.files:
                rows = shards.Records.of_file(file, n).read(range(n))
                ids = np.concatenate([rows[:1, 0], rows[:, 1:].ravel()])
                ids = ids[ids != PADDING].tolist()
                text = packed.tokenizer.decode(ids, skip_special_tokens=False)
                found[part] += text.split("<|endoftext|>")[1:-1]
    every = texts(0, 60) + texts(1, 40) + texts(2, 40)
    assert sorted(found["train"] + found["heldout"]) == sorted(every)
    assert 5 < len(found["heldout"]) < 30
    assert packed.info.heldout_bytes == sum(len(text.encode()) for text in found["heldout"])
    held = sources.load(DataConfig(source="built", path=str(whole))).heldout
    assert {document.text for document in held} == set(found["heldout"])


def test_sources_give_their_shares_again_and_again(whole):
    packed, index = read(whole), json.loads((whole / built.INDEX).read_text())
    web, wiki = packed.parts["train"].segments
    assert (web.gives, wiki.gives) == (-(-20_000 // L), -(-60_000 // L))
    assert index["sources"]["wiki"]["epochs"] == round(wiki.gives / wiki.holds, 4) > 2
    n = packed.info.n_sequences["train"]
    rows = np.concatenate([packed.batches(100, seed=0)[i]["tokens"] for i in range(n // 100)])
    assert packed.info.n_tokens["train"] >= (rows[:, 1:] != PADDING).sum()
    every = packed.parts["train"].read(range(n))
    assert packed.info.n_tokens["train"] == (every[:, 1:] != PADDING).sum()
    times = np.unique(every[web.gives :], axis=0, return_counts=True)[1]
    assert set(times) == {wiki.gives // wiki.holds, wiki.gives // wiki.holds + 1}
    assert len(times) == wiki.holds


def test_rows_of_a_batch_are_the_batchs_rows(whole):
    packed = read(whole)
    batches, some = packed.batches(8, seed=3), packed.batches(8, seed=3, rows=[1, 6, 2])
    for step in (0, 5, 10**6):
        np.testing.assert_array_equal(some[step]["tokens"], batches[step]["tokens"][[1, 6, 2]])
        assert batches[step]["tokens"].dtype == np.int32


def test_reading_ahead_gives_the_same_batches_and_leaves_no_process(whole):
    batches = read(whole).batches(4, seed=0)
    for start in (0, 10**6 + 1):
        for workers in (0, 2):
            with contextlib.closing(pipeline.read_ahead(batches, start, workers)) as ahead:
                for step in range(start, start + 5):
                    np.testing.assert_array_equal(next(ahead)["tokens"], batches[step]["tokens"])
                below = children(os.getpid())
            assert workers == 0 or len(below) >= workers
    until(lambda: sum(map(lives, below)) <= 1)  # Python's own tracker of resources stays


_READING = """
import sys, time
from pathlib import Path
from ladder_jax.config import DataConfig
from ladder_jax.data import pipeline
if __name__ == "__main__":
    data = DataConfig(source="built", path=sys.argv[1], vocab_size=300)
    ahead = pipeline.read_ahead(pipeline.prepare(data, 32, Path("/")).batches(4, 0), 0, 1)
    next(ahead)
    print("reading", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_that_read_end_with_their_parent(whole, tmp_path, number):
    script = tmp_path / "read.py"
    script.write_text(_READING)
    process = subprocess.Popen(
        [sys.executable, str(script), str(whole)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        below = children(process.pid)
        assert below
    finally:
        process.send_signal(number)
        process.wait()
    until(lambda: not any(map(lives, below)))


def test_a_run_must_fit_what_was_built(whole):
    data = DataConfig(source="built", path=str(whole), vocab_size=300)
    for changed, seq_len, line in (
        (data, 64, "was built with `model.seq_len` 32, the run has 64"),
        (DataConfig(source="built", path=str(whole)), L, "`data.vocab_size` 300, the run has 1024"),
        (DataConfig(source="built", path="nowhere"), L, "run: ladder data build --mixture FILE"),
        (DataConfig(source="built", path="gs://a/b"), L, "gs://a/b: shards are read from a local"),
    ):
        with pytest.raises(InputError, match=line):
            pipeline.prepare(changed, seq_len, whole)
