"""Data files of Python packages, extracted from their wheels without installing them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from fitting.errors import InputError


@dataclass(frozen=True)
class Wheel:
    """A published wheel.

    Attributes:
        requirement: name and version, in the form that pip accepts.
        file: file name of the wheel.
        sha256: SHA-256 of the file, in hexadecimal.
    """

    requirement: str
    file: str
    sha256: str


def fetch(wheel: Wheel, directory: Path) -> Path:
    """Downloads a wheel with pip, without its dependencies; the user's pip settings apply.

    Returns:
        The path of the file, which is not yet verified.

    Raises:
        InputError: pip is not installed, or cannot fetch the wheel.
    """
    shown = [] if os.isatty(2) else ["--quiet"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", *shown]
    # Progress goes to standard error, since standard output is the command's result.
    done = subprocess.run(
        [*command, "--dest", str(directory), wheel.requirement],
        stdin=subprocess.DEVNULL,
        stdout=2,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    path = directory / wheel.file
    if done.returncode or not path.is_file():
        raise InputError(
            f"{wheel.requirement}: pip cannot fetch it ({_reason(done.stderr)}); "
            f"if you have {wheel.file}, give its directory as `source`"
        )
    return path


def _reason(output: str) -> str:
    """The most informative line of pip's error output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "pip is not installed: python -m ensurepip"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it gave no reason"])[-1][:120]


def extract(wheel: Path, members: Sequence[tuple[str, str]], target: Path) -> None:
    """Copies members of a wheel into a directory; existing files are kept.

    Args:
        wheel: the file.
        members: pairs of a pattern that matches a member's whole name, and the member's path below
            `target` (which may use the pattern's groups).  The first pair that matches counts;
            members without a match are left out.
        target: the directory.

    Raises:
        InputError: a member's name leads out of the directory, or it is a link.
    """
    with zipfile.ZipFile(wheel) as archive:
        infos = archive.infolist()
        for info in infos:
            _check(wheel, info)
        for info in tqdm(infos, desc=wheel.name, unit="file", leave=False, disable=None):
            place = _place(info.filename, members)
            if place is None or (target / place).exists():
                continue
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(target / place, "wb") as copy:
                shutil.copyfileobj(source, copy)


def _place(name: str, members: Sequence[tuple[str, str]]) -> str | None:
    for pattern, path in members:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(path)
    return None


def _check(wheel: Path, info: zipfile.ZipInfo) -> None:
    path = PurePosixPath(info.filename)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\:]", info.filename):
        problem = "leads out of the directory"
    elif stat.S_ISLNK(info.external_attr >> 16):
        problem = "is a link"
    else:
        return
    raise InputError(f"{wheel.name}: member {info.filename!r} {problem}: do not use this file")
