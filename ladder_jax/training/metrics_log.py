"""A run's log: `metrics.jsonl`, and events for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fitting.io import write_atomically

METRICS_FILE = "metrics.jsonl"


def read(run_directory: Path) -> list[dict[str, Any]]:
    """All lines of a run's log, oldest first, without one that a kill cut short."""
    path = run_directory / METRICS_FILE
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict) or "step" not in row:
                break
            rows.append(row)
    return rows


class MetricsLog:
    """Appends to a run's log, and to `tensorboard/`.

    Args:
        run_directory: the run's.
        step: the step that training goes on from; lines logged after it are dropped.
    """

    def __init__(self, run_directory: Path, step: int) -> None:
        import tensorboardX

        kept = [row for row in read(run_directory) if row["step"] <= step]
        self.cpu_s = kept[-1]["cpu_s"] if kept else 0.0
        text = "".join(json.dumps(row) + "\n" for row in kept)
        path = run_directory / METRICS_FILE
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._board = tensorboardX.SummaryWriter(
            str(run_directory / "tensorboard"), purge_step=step + 1
        )

    def write(self, row: dict[str, Any]) -> None:
        """Appends a line; `row` has a `step` and numbers."""
        self._file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(f"train/{name}", value, row["step"])

    def close(self) -> None:
        self._file.close()
        self._board.close()
