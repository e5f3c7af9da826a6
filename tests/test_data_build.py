"""Data at scale: nothing lost, the same bytes whatever happens, and one line for what is wrong."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from etils import epath

from fitting.errors import InputError
from ladder_jax.config import DataConfig
from ladder_jax.data import (
    build,
    built,
    mixture,
    pipeline,
    readers,
    shards,
    sources,
    storage,
    tokenise,
)
from ladder_jax.data.documents import Document
from ladder_jax.data.mixture import Mixture, SourceConfig, TokenizerConfig
from ladder_jax.data.tokenizer import train_bpe
from ladder_jax.models.protocol import PADDING

L, UNIT = 32, 1500  # tokens of a sequence; bytes of a unit
WORDS = ["the", "quick", "fox", "jumps", "over", "a", "lazy", "naïve", "owls", "hum", "我们"]


def texts(seed: int, n: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{seed}.{i} " + " ".join(rng.choice(WORDS, rng.integers(5, 60))) for i in range(n)]


def lines(documents: list[str]) -> bytes:
    rows = (json.dumps({"text": text, "id": 3}, ensure_ascii=False) for text in documents)
    return "\n".join(rows).encode()  # the last line has no end


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(build, "_MB", UNIT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sources: `web` in two plain files, `wiki` in a compressed one."""
    root = tmp_path_factory.mktemp("raw")
    (root / "a.jsonl").write_bytes(lines(texts(0, 60)))
    (root / "b.jsonl").write_bytes(lines(texts(1, 40)))
    (root / "c.jsonl.gz").write_bytes(gzip.compress(lines(texts(2, 40))))
    return root


def mixed(folder: Path, **changes) -> Mixture:
    web = SourceConfig(path=str(folder / "[ab].jsonl"), weight=1.0)
    wiki = SourceConfig(path=str(folder / "c.jsonl.gz"), weight=3.0)
    fixed = {
        "sources": {"web": web, "wiki": wiki}, "tokenizer": TokenizerConfig("", 300, 64),
        "seq_len": L, "n_tokens": 80_000, "heldout_fraction": 0.1, "unit_mb": 1,
    }  # fmt: skip
    return Mixture(**fixed | changes)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A build that nothing disturbed, by two workers."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_MB", UNIT)
        build.build(mixed(folder), str(out), workers=2, progress=False)
    return out


def files(out: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def read(out: Path) -> pipeline.Packed:
    return pipeline.prepare(DataConfig(source="built", path=str(out), vocab_size=300), L, out)


@pytest.mark.parametrize("size", [1, 90, 1000, 10**6])
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_units_give_every_line_once_and_in_order(tmp_path, size, ending):
    documents = texts(3, 50)
    raw = lines(documents)
    path = tmp_path / f"a.jsonl{ending}"
    if ending == ".zst":  # of two frames
        codec = pyarrow.Codec("zstd")
        parts = (codec.compress(part, asbytes=True) for part in (raw[:800], raw[800:]))
        path.write_bytes(b"".join(parts))
    else:
        path.write_bytes(gzip.compress(raw) if ending else raw)
    source = SourceConfig(path=str(path))
    units, found = readers.units(source, size), []

    def add(unit):
        following = yield from readers.documents(source, unit)
        if following is not None:
            units.append(following)

    for unit in units:  # grows
        found += add(unit)
    assert found == documents
    assert len(units) >= min(len(raw) // size, 50)


def test_text_files_are_gathered_into_units(tmp_path):
    for i in range(7):
        (tmp_path / f"{i}.txt").write_text(f"document {i}")
    source = SourceConfig(kind="text", path=str(tmp_path / "*.txt"))
    units = readers.units(source, 20)
    assert [len(unit["files"]) for unit in units] == [2, 2, 2, 1]
    found = [text for unit in units for text in readers.documents(source, unit)]
    assert found == [f"document {i}" for i in range(7)]


def test_tfds_by_examples(tmp_path):
    import tensorflow_datasets as tfds

    class Fables(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate({"text": text} for text in texts(4, 20))

    builder = Fables(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    source = SourceConfig(kind="tfds", path=str(builder.data_path))
    units = readers.units(source, 500)
    assert len(units) > 3
    found = [text for unit in units for text in readers.documents(source, unit)]
    assert sorted(found) == sorted(texts(4, 20))


def test_hugging_face_by_its_files(tmp_path):
    pytest.importorskip("datasets")
    for i in range(3):
        (tmp_path / f"{i}.jsonl").write_bytes(lines(texts(i, 5)))
    source = SourceConfig(kind="huggingface", path=str(tmp_path))
    units = readers.units(source, 1)
    assert len(units) == 3
    found = [list(readers.documents(source, unit)) for unit in units]
    assert found == [texts(i, 5) for i in range(3)]


def test_a_long_text_is_encoded_in_pieces_to_the_same_ids(tmp_path, monkeypatch):
    text = " ".join(texts(5, 40))
    tokenizer = train_bpe([Document("a", text)], 400, tmp_path)
    (plain,) = shards.encode([text], tokenizer)
    monkeypatch.setattr(shards, "_LONGEST", 200)
    monkeypatch.setattr(shards, "_MARGIN", 50)
    assert len(list(shards._pieces(text))) > 10
    assert "".join(shards._pieces(text)) == text
    pieces = np.concatenate(list(shards.encode([text, "end"], tokenizer)))
    np.testing.assert_array_equal(pieces[: len(plain)], plain)


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


def test_less_is_made_where_less_is_wanted(folder, whole, tmp_path):
    outcome = build.build(
        mixed(folder, n_tokens=800, heldout_fraction=0.5), str(tmp_path), 2, progress=False
    )
    some, every = files(tmp_path), files(whole)
    assert outcome.index["sources"]["wiki"]["epochs"] < 1
    notes = [json.loads(note.read_text()) for note in (tmp_path / "shards").glob("*.json")]
    train = [note["train"] for note in notes]
    assert {name for name in some if name.endswith("train.array_record")} == {
        shard["file"] for shard in train
    }
    kept = {shard["file"] for shard in train if shard["records"]}  # all of a unit may be held out
    assert 2 <= len(kept) < len([name for name in every if name.endswith("train.array_record")])
    named = {s["file"] for source in outcome.index["sources"].values() for s in source["shards"]}
    assert kept <= named


def test_units_made_ahead_are_dropped(tmp_path):
    made = {i: {"train": {"records": 5}} for i in (2, 0, 1)}
    source = build._Source("a", [{}, {}, {}, {}], 7, made, started=3)
    assert source.next() is None
    assert len(source.kept()) == 2
    (tmp_path / "shards").mkdir()
    for i in range(3):
        (tmp_path / f"{tokenise.stem('a', i)}.json").write_text("{}")
    build._drop(epath.Path(tmp_path), source)
    assert [p.name for p in sorted((tmp_path / "shards").iterdir())] == [
        "a-000000.json",
        "a-000001.json",
    ]


def test_a_unit_is_read_no_further_than_its_source_gives(folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenise, "_tokenizer", read(whole).tokenizer)
    monkeypatch.setattr(tokenise, "_AT_ONCE", 300)
    (tmp_path / "shards").mkdir()
    (unit,) = readers.units(mixed(folder).sources["wiki"], 10**6)
    made = tokenise.run(tokenise.UnitJob(str(tmp_path), mixed(folder), "wiki", 0, unit, limit=3))
    assert 3 <= made["train"]["records"] < 30
    assert made["documents"] < 40


def test_one_worker_makes_the_same_bytes_and_the_second_time_verifies(folder, whole, tmp_path):
    first = build.build(mixed(folder), str(tmp_path), 1, progress=False)
    assert files(tmp_path) == files(whole)
    assert (first.made > 10, first.found) == (True, 0)
    victim = next((tmp_path / "shards").glob("wiki-000003-train.array_record"))
    raw = bytearray(victim.read_bytes())
    raw[-100] ^= 1
    victim.write_bytes(raw)
    again = build.build(mixed(folder), str(tmp_path), 1, progress=False)
    assert (again.made, again.found) == (1, first.made - 1)
    assert files(tmp_path) == files(whole)
    with pytest.raises(
        InputError, match=r"another mixture \(n_tokens differs\): use another `out`"
    ):
        build.build(mixed(folder, n_tokens=5), str(tmp_path), 1, progress=False)


_KILLED = """
import sys
from ladder_jax.data import build, mixture
if __name__ == "__main__":
    build._MB = {unit}
    build.build(mixture.load(sys.argv[1]), sys.argv[2], 2, progress=False)
"""


def test_killed_and_begun_again_it_makes_the_same_bytes(folder, whole, tmp_path):
    import draccus

    script, config, out = tmp_path / "run.py", tmp_path / "mixture.json", tmp_path / "out"
    script.write_text(_KILLED.format(unit=UNIT))
    config.write_text(json.dumps(draccus.encode(mixed(folder))))
    process = subprocess.Popen([sys.executable, str(script), str(config), str(out)])
    try:
        _until(lambda: len(list(out.glob("shards/*.json"))) >= 2 or process.poll() is not None)
        workers = _children(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _until(lambda: not any(map(_lives, workers)))
    assert not (out / built.INDEX).exists()
    with pytest.raises(InputError, match="holds no finished build; run: ladder data build"):
        read(out)
    outcome = build.build(mixed(folder), str(out), 1, progress=False)
    assert outcome.found >= 2
    assert files(out) == files(whole)


def _until(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _children(pid: int) -> list[int]:
    """Of all its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(i) for each in lists for i in each.read_text().split()]


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


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
                below = _children(os.getpid())
            assert workers == 0 or len(below) >= workers
    _until(lambda: sum(map(_lives, below)) <= 1)  # Python's own tracker of resources stays


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
        below = _children(process.pid)
        assert below
    finally:
        process.send_signal(number)
        process.wait()
    _until(lambda: not any(map(_lives, below)))


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


BAD = {
    "field": ({"seqlen": 4}, "The fields `seqlen` are not valid for Mixture"),
    "source": (
        {"sources": {"a": {"path": "x", "weigt_": 1}}},
        "`sources.a`: The fields `weigt_`",
    ),
    "kind": ({"sources": {"a": {"path": "x", "kind": "csv"}}}, "`kind` 'csv' is none of jsonl"),
    "type": ({"n_tokens": "many"}, "`n_tokens`: Couldn't parse 'many'"),
    "none": ({"sources": {}}, "`sources` is empty"),
    "name": ({"sources": {"a/b": {"path": "x"}}}, "'a/b': use letters, digits"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_mixture_gets_one_line(tmp_path, name):
    changes, line = BAD[name]
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps({"sources": {"a": {"path": "x"}}, "n_tokens": 10} | changes))
    with pytest.raises(InputError, match=line) as caught:
        mixture.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_bad_source_gets_one_line_and_leaves_no_index(folder, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    for path, line in (
        (tmp_path / "none*.jsonl", "none.*: nothing found"),
        (tmp_path / "bad.jsonl", "bad.jsonl: byte 17: no JSON object with 'text'"),
    ):
        wrong = mixed(folder, sources={"a": SourceConfig(path=str(path))})
        with pytest.raises(InputError, match=line):
            build.build(wrong, str(tmp_path / "out"), 1, progress=False)
        assert not (tmp_path / "out" / built.INDEX).exists()


def test_an_output_that_cannot_be_written_gets_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/out: cannot be written: Not a directory"):
        build.build(mixed(folder), str(tmp_path / "file" / "out"), 1, progress=False)


_BUCKETS = """
import os
from fsspec.implementations.local import LocalFileSystem

class GCSFileSystem(LocalFileSystem):
    protocol = ("gs", "gcs")
    auto_mkdir = True

    def __init__(self, finalize_on_close=False, **options):
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path, **options):
        path = str(path)
        for begin in ("gs://", "gcs://"):
            if path.startswith(begin):
                path = os.environ["BUCKETS"] + "/" + path[len(begin):]
        return path.rstrip("/")
"""


def test_a_bucket_gets_the_same_bytes(folder, whole, tmp_path, monkeypatch):
    """With a package gcsfs of ours, whose buckets are directories; workers import it too."""
    (tmp_path / "gcsfs").mkdir()
    (tmp_path / "gcsfs" / "__init__.py").write_text(_BUCKETS)
    (tmp_path / "buckets").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("BUCKETS", str(tmp_path / "buckets"))
    build.build(mixed(folder), "gs://bucket/data", 1, progress=False)
    assert files(tmp_path / "buckets" / "bucket" / "data") == files(whole)


def test_a_bucket_that_does_not_answer_is_given_up(monkeypatch):
    class Silent:
        def mkdir(self, **options):
            time.sleep(600)

        def __str__(self):
            return "gs://bucket/data"

    monkeypatch.setattr(storage, "_PATIENCE_S", 0.1)
    with pytest.raises(InputError, match=r"gs://bucket/data: no answer within .* credentials"):
        storage._within_patience(Silent())
