"""Requests to stop, so that this process can save and end in time.

A request is SIGTERM (clusters, spot machines, `kill`), or an event of Google Cloud's metadata
server (maintenance of a TPU host, a spot machine taken back).  `watch` receives them; loops call
`noticed`, which is true on all processes from the same call on once any of them has received one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: launchers start the same command again

_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance"
_QUIET = {  # values that stop nothing
    "maintenance-event": ("NONE", "", "MIGRATE_ON_HOST_MAINTENANCE"),
    "preempted": ("FALSE", ""),
}
_POLL_S = 3.0

_notice = threading.Event()
_watching = False
_n_polls = 0


class Preempted(Exception):
    """A stop was requested; the work so far is saved."""


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Receives requests until the end of the outermost such block, in a process's main thread."""
    import jax

    global _n_polls, _watching
    if _watching:
        yield
        return
    _watching, _n_polls = True, 0
    _notice.clear()
    stop = threading.Event()
    before: Any = None
    # Where there are several processes, JAX's coordination service takes the signal itself.
    own = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
    if own:
        before = signal.signal(signal.SIGTERM, lambda number, frame: _notice.set())
    if _on_google_cloud():
        url = os.environ.get("LADDER_METADATA", _METADATA)
        threading.Thread(target=_follow, args=(url, stop), daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        _watching = False
        if own:
            signal.signal(signal.SIGTERM, before)


def noticed() -> bool:
    """Whether a stop was requested: save and end now.

    All processes must call it equally often: JAX's coordination service then chooses the call at
    which all of them stop.
    """
    import jax
    from jax.experimental import multihost_utils

    global _n_polls
    if jax.process_count() == 1:
        return _notice.is_set()
    _n_polls += 1
    if multihost_utils.reached_preemption_sync_point(_n_polls):  # true only once
        _notice.set()
    return _notice.is_set()


def exit_on_sigterm() -> None:
    """Makes SIGTERM end this process with `EXIT_CODE`; for when there is nothing to save."""
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(EXIT_CODE))


def check() -> None:
    """Raises `Preempted` if a stop was requested; for loops that have nothing to save."""
    if noticed():
        raise Preempted


def _on_google_cloud() -> bool:
    if "LADDER_METADATA" in os.environ:
        return True
    try:
        product = Path("/sys/class/dmi/id/product_name").read_text(encoding="utf-8")
    except OSError:
        return False
    return "Google" in product


def _follow(url: str, stop: threading.Event) -> None:
    """Polls the metadata server until a value requests a stop; then signals this process.

    A value that was there from the start had its effect on an earlier process.
    """
    known = _values(url)
    while not stop.wait(_POLL_S):
        for name, value in _values(url).items():
            if value != known.get(name, _QUIET[name][0]) and value not in _QUIET[name]:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            known[name] = value


def _values(url: str) -> dict[str, str]:
    found = {}
    for name in _QUIET:
        request = urllib.request.Request(f"{url}/{name}", headers={"Metadata-Flavor": "Google"})
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=_POLL_S) as a:
            found[name] = a.read().decode().strip()
    return found
