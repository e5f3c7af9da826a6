"""Child processes that end with their parent."""

from __future__ import annotations

import os
import threading
import time

_POLL_S = 0.2


def live_with(parent: int) -> None:
    """Makes this process end when its parent does; `parent` is the parent's process id."""
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
