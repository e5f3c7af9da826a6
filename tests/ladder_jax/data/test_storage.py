"""The storage of a build: buckets, and places that cannot be written."""

import time

import pytest

from fitting.errors import InputError
from ladder_jax.data import (
    build,
    storage,
)
from tests.mixtures import files, mixed


def test_an_output_that_cannot_be_written_gets_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/out: cannot be written: Not a directory"):
        build.build(mixed(folder), str(tmp_path / "file" / "out"), 1, progress=False)


pytestmark = pytest.mark.usefixtures("small_units")

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
    """Replaces gcsfs by a package whose buckets are directories, in worker processes too."""
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
