"""Small source files, and a finished build of them."""

import gzip

import pytest

from ladder_jax.data import (
    build,
)
from tests.mixtures import UNIT, lines, mixed, texts


@pytest.fixture
def small_units(monkeypatch):
    """Units of a few documents each, so that small sources have many."""
    monkeypatch.setattr(build, "_MB", UNIT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sources: `web` in two plain files, `wiki` in a compressed one."""
    root = tmp_path_factory.mktemp("raw")
    (root / "a.jsonl").write_bytes(lines(texts(0, 60)))
    (root / "b.jsonl").write_bytes(lines(texts(1, 40)))
    (root / "c.jsonl.gz").write_bytes(gzip.compress(lines(texts(2, 40))))
    return root


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """An uninterrupted build by two workers."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_MB", UNIT)
        build.build(mixed(folder), str(out), workers=2, progress=False)
    return out
