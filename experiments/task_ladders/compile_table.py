"""Which TPU slices the published sizes fit on, and how: the table of README.md.

Command:  python -m experiments.task_ladders.compile_table --out compiled.csv [--lean]
Hardware: one CPU core, no TPU; extra `tpu`.  Time: minutes per cell.
Expected: README.md, "Compiled for TPU slices".

Cells that are in the CSV are not compiled again, so the command may be stopped at any time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from fitting.errors import InputError
from fitting.io import write_atomically
from ladder_jax.aot.examine import Request, examine
from ladder_jax.models.sizes import OLMO2_SIZES

SLICES = ("v5e:4x4", "v5e:16x16", "v6e:4x4", "v6e:16x16", "v5p:4x4x4", "v5p:8x8x8")
FIRST = [("190M", "v5e:4x4"), ("7B", "v5p:4x4x4"), ("13B", "v5p:8x8x8"), ("13B", "v5e:4x4")]
_AXES = ("data", "fsdp", "tensor")


def main(arguments: list[str] | None = None) -> None:
    """Compiles the cells that the CSV lacks, and prints the table as Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.task_ladders.compile_table", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m experiments.task_ladders.compile_table --out compiled.csv",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE", help="CSV, one row per cell")
    parser.add_argument("--sizes", nargs="+", default=list(OLMO2_SIZES), metavar="SIZE")
    parser.add_argument("--slices", nargs="+", default=list(SLICES), metavar="SLICE")
    parser.add_argument("--lean", action="store_true",
                        help="the leanest program of each cell instead of the fastest")  # fmt: skip
    args = parser.parse_args(arguments)
    out = Path(args.out)
    rows: list[Any] = pd.read_csv(out).to_dict("records") if out.is_file() else []
    done = {(row["size"], row["topology"]) for row in rows}
    wanted = [(size, slice_) for size in args.sizes for slice_ in args.slices]
    wanted = sorted(set(wanted) - done, key=lambda c: (c not in FIRST, wanted.index(c)))
    for size, slice_ in tqdm(wanted, desc="cells", disable=None):
        rows.append(_row(size, slice_, search=not args.lean))
        frame = pd.DataFrame(rows)
        write_atomically(out, lambda path, frame=frame: frame.to_csv(path, index=False))
    print(table(pd.DataFrame(rows)))


def _row(size: str, slice_: str, search: bool) -> dict[str, Any]:
    """A cell of the table: the result of `ladder compile --json`, without nesting."""
    found = examine(Request(size, slice_, search=search))
    return {
        "size": size,
        "topology": slice_,
        "searched": search,
        **{key: found["mesh"][key] for key in (*_AXES, "micro_seqs")},
        **{key: value for key, value in found.items() if key not in ("mesh", "overrides")},
        "collectives": " ".join(f"{kind}:{n}" for kind, n in found["collectives"].items()),
    }


def table(rows: pd.DataFrame) -> str:
    """Sizes x slices: GiB of a chip, mesh, remat policy and micro-batch; or the lacking GiB."""
    slices = [name for name in SLICES if name in set(rows["topology"])]
    lines = [f"| | {' | '.join(slices)} |", "|---|" + "---|" * len(slices)]
    for size in OLMO2_SIZES:
        own = rows[rows["size"] == size].set_index("topology")
        cells = [_cell(own.loc[name]) if name in own.index else "" for name in slices]
        if any(cells):
            lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Any) -> str:
    if not row["fits"]:
        return f"short by {row['short_by'] / 2**30:.1f}"
    mesh = "x".join(str(row[axis]) for axis in _AXES)
    mark = "" if row["searched"] else "*"
    return f"{row['bytes_total'] / 2**30:.1f}{mark}, {mesh}, {row['remat']} {row['micro_seqs']}"


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"python -m experiments.task_ladders.compile_table: {e}")
