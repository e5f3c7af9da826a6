"""The public OLMo-ladder runs (arXiv 2412.04403), fetched once, checked by SHA-256 and cached."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pooch
from tqdm import tqdm

from fitting.errors import InputError, first_line
from ladder_jax.downloads.verify import has, reject, verified, writing
from ladder_jax.runtime.paths import cache_dir

COMMIT = "67a3f440f787d020da35e3ca8eeae475fae754f5"
URL = (
    "https://raw.githubusercontent.com/allenai/OLMo-ladder/"
    f"{COMMIT}/src/scripts/paper/data/ladder-runs/"
)
SHA256 = {
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
pooch.get_logger().setLevel("WARNING")  # there is a progress bar instead


def olmo_ladder(source: str | Path | None = None) -> Path:
    """Fetches the 18 public OLMo-ladder run CSVs (arXiv 2412.04403).

    Args:
        source: a local directory that holds them, instead of the network.

    Returns:
        The directory that holds the verified files.

    Raises:
        InputError: a file is missing, cannot be fetched, or has another checksum.
    """
    target = cache_dir() / f"olmo-ladder-{COMMIT[:8]}"
    fetch = _fetch if source is None else _copier(Path(source))
    missing = {n: h for n, h in SHA256.items() if not has(target / n, h)}
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        bar = tqdm(missing.items(), desc="olmo-ladder", unit="file", leave=False, disable=None)
        for name, sha256 in bar:
            fetch(name, sha256, target)
    return target


def _fetch(name: str, sha256: str, target: Path) -> None:
    try:
        pooch.retrieve(URL + name, f"sha256:{sha256}", name, target)
    except OSError as e:
        reason = first_line(e, 120)
        raise InputError(
            f"{URL + name}: cannot be fetched ({reason}); "
            "if you have a local copy: ladder download olmo-ladder --from DIR"
        ) from None
    except ValueError:  # pooch: the hash differs
        reject(URL + name)


def _copier(source: Path) -> Callable[[str, str, Path], None]:
    def copy(name: str, sha256: str, target: Path) -> None:
        path = verified(source / name, sha256, "all 18 published CSVs")
        partial = target / f".{name}.partial"
        shutil.copyfile(path, partial)
        partial.replace(target / name)

    return copy
