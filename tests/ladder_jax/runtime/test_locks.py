"""Locks: one holder, visible to other processes, and one line if a lock cannot be taken."""

import fcntl

import pytest

from fitting.errors import InputError
from ladder_jax.runtime import locks


def test_a_lock_has_one_holder_and_is_given_back(tmp_path):
    path = tmp_path / "run" / locks.FILE
    assert not locks.is_held(path)
    with locks.held(path, "is busy"):
        assert locks.is_held(path)
        with pytest.raises(InputError, match="run: is busy"), locks.held(path, "is busy"):
            pass
    assert not locks.is_held(path)
    with locks.held(path, "is busy"):
        pass


def test_a_locked_file_keeps_its_content(tmp_path):
    path = tmp_path / "rows"
    path.write_text("a row\n")
    with locks.held(path, "is busy"):
        assert path.read_text() == "a row\n"


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match="mount it with flock"), locks.held(tmp_path / "x", ""):
        pass


def test_a_file_in_the_way_of_the_directory_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), locks.held(tmp_path / "file/x", ""):
        pass
