"""`ladder data build`: the same bytes after any interruption and with any number of workers."""

import json
import signal
import subprocess
import sys

import pytest
from etils import epath

from fitting.errors import InputError
from ladder_jax.data import (
    build,
    built,
    readers,
    tokenise,
)
from ladder_jax.data.mixture import SourceConfig
from tests.mixtures import UNIT, files, mixed, read
from tests.processes import children, lives, until

pytestmark = pytest.mark.usefixtures("small_units")


def test_a_smaller_build_makes_fewer_shards(folder, whole, tmp_path):
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


def test_killed_and_restarted_it_makes_the_same_bytes(folder, whole, tmp_path):
    import draccus

    script, config, out = tmp_path / "run.py", tmp_path / "mixture.json", tmp_path / "out"
    script.write_text(_KILLED.format(unit=UNIT))
    config.write_text(json.dumps(draccus.encode(mixed(folder))))
    process = subprocess.Popen([sys.executable, str(script), str(config), str(out)])
    try:
        until(lambda: len(list(out.glob("shards/*.json"))) >= 2 or process.poll() is not None)
        workers = children(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: not any(map(lives, workers)))
    assert not (out / built.INDEX).exists()
    with pytest.raises(InputError, match="holds no finished build; run: ladder data build"):
        read(out)
    outcome = build.build(mixed(folder), str(out), 1, progress=False)
    assert outcome.found >= 2
    assert files(out) == files(whole)


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
