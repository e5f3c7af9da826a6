"""`ladder download olmo-ladder`: copied or fetched, verified, kept."""

import functools
import hashlib
import http.server
import threading

import pytest

from ladder_jax import cli
from ladder_jax.downloads import public_runs
from ladder_jax.runtime import paths


def test_download_copies_verifies_and_caches(tmp_path, monkeypatch, capsys):
    good = hashlib.sha256(b"x\n").hexdigest()
    monkeypatch.setattr(public_runs, "SHA256", {"a.csv": good})
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.mkdir()
    ask = ["download", "olmo-ladder", "--from", str(source)]
    assert cli.main(ask) == 2
    assert "not found" in capsys.readouterr().err
    (source / "a.csv").write_text("y\n")
    assert cli.main(ask) == 2
    assert "its SHA-256 is not the published one" in capsys.readouterr().err
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    (source / "a.csv").write_text("x\n")
    assert cli.main(ask) == 0
    (source / "a.csv").unlink()
    assert cli.main(["download", "olmo-ladder"]) == 0  # cached: needs neither source nor network


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A folder served on loopback in place of the published address."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(public_runs, "URL", f"http://127.0.0.1:{server.server_address[1]}/")
        monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
        yield folder
        server.shutdown()


def test_download_fetches_and_verifies(web, monkeypatch, capsys):
    sha256 = hashlib.sha256(b"x\n").hexdigest()
    monkeypatch.setattr(public_runs, "SHA256", {"a.csv": sha256})
    assert cli.main(["download", "olmo-ladder"]) == 2
    assert "ladder download olmo-ladder --from DIR" in capsys.readouterr().err
    (web / "a.csv").write_text("forged")
    assert cli.main(["download", "olmo-ladder"]) == 2
    assert "its SHA-256 is not the published one" in capsys.readouterr().err
    (web / "a.csv").write_text("x\n")
    assert cli.main(["download", "olmo-ladder"]) == 0
    cached = paths.cache_dir() / f"olmo-ladder-{public_runs.COMMIT[:8]}"
    assert [p.name for p in cached.iterdir()] == ["a.csv"]


def test_published_checksums(public_data):
    for name, sha256 in public_runs.SHA256.items():
        content = (public_data / "olmo_ladder_runs" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
