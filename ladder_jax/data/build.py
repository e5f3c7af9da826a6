"""`ladder data build`: worker processes make a mixture into shards, resumable at any moment.

Units of the sources are taken in an order that the mixture fixes, each to shards that depend on it
alone (`tokenise`), until a source has given its share.  So the result depends neither on the number
of workers nor on being killed.  `plan.json` pins the units before the first is read; `index.json`
is written last and makes the build complete.  Documents are mixed when they are read:
`Packed.batches` draws from all shards, and begins again in a source that holds fewer tokens than
its share.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import draccus
from etils import epath
from tqdm import tqdm

from fitting.errors import InputError
from ladder_jax.data import built, readers, storage, tokenise
from ladder_jax.data.documents import Document
from ladder_jax.data.mixture import Mixture
from ladder_jax.data.readers import Unit
from ladder_jax.data.shards import end_of_text
from ladder_jax.data.tokenise import UnitJob
from ladder_jax.data.tokenizer import train_bpe

_MB = 1_000_000
_PINNED = ("tokenizers", "array-record")  # packages that decide the bytes of a shard
PLAN = "plan.json"


@dataclass(frozen=True)
class BuildResult:
    """Result of a call of `build`.

    Attributes:
        index: the content of `index.json`.
        made: units made by this call.
        found: units that were there already, with the right checksums.
    """

    index: dict[str, Any]
    made: int
    found: int


@dataclass
class _Source:
    """Progress of one source."""

    name: str
    units: list[Unit]
    gives: int  # records
    made: dict[int, dict[str, Any]] = field(default_factory=dict)
    started: int = 0
    _round: int = 0  # the first unit of those that are known by now and were not before

    def next(self) -> int | None:
        """The unit to start now; None if none is needed, or none is known yet."""
        n_running = self.started - len(self.made)
        records = sum(made["train"]["records"] for made in self.made.values())
        expected = records + n_running * records / max(1, len(self.made))
        if expected >= self.gives:
            return None
        if self.started == len(self.units) and not n_running:
            last = [self.made[i]["following"] for i in range(self._round, self.started)]
            self._round = self.started
            self.units += [unit for unit in last if unit]
        if self.started == len(self.units):
            return None
        self.started += 1
        return self.started - 1

    def kept(self) -> list[dict[str, Any]]:
        """The first units that hold enough, or all."""
        order = [self.made[i] for i in sorted(self.made)]
        before = itertools.accumulate((m["train"]["records"] for m in order), initial=0)
        return [m for m, held in zip(order, before, strict=False) if held < self.gives]


def build(mixture: Mixture, out: str, workers: int, progress: bool = True) -> BuildResult:
    """Builds, resumes or verifies; makes damaged shards again.

    Memory: each worker holds the tokenizer and about a megabyte of text at a time, this process the
    list of units, whatever the sizes of the sources: 0.4 and 0.3 GB.  A document beyond 5 MB takes
    20 times its size; a sample to train a tokenizer on comes on top.

    Args:
        mixture: the sources and their shares.
        out: a directory, or `gs://BUCKET/...`.
        workers: processes.
        progress: draw a bar.

    Raises:
        InputError: `out` cannot be written or holds another build, or a source cannot be read.
    """
    root = epath.Path(out)
    with storage.claim(root):
        plan = _plan(mixture, root)
        sources = [
            _Source(name, list(plan["units"][name]), -(-mixture.wanted(name) // mixture.seq_len))
            for name in mixture.sources
        ]
        found = _make_all(mixture, root, sources, workers, progress)
        index = _index(mixture, plan, sources)
        storage.write_json(root / built.INDEX, index, root)
        for source in sources:
            _drop(root, source)
    n_units = sum(len(source.made) for source in sources)
    return BuildResult(index, made=n_units - found, found=found)


def _plan(mixture: Mixture, root: epath.Path) -> dict[str, Any]:
    """The plan of an earlier call, or a new one."""
    versions = {package: version(package) for package in _PINNED}
    config = draccus.encode(mixture)
    plan = storage.read_json(root / PLAN)
    if plan is not None:
        for key, value in config.items():
            if plan["mixture"].get(key) != value:
                raise InputError(f"{root} belongs to another mixture ({key} differs): use another "
                                 "`out`")  # fmt: skip
        if plan["versions"] != versions and not (root / built.INDEX).exists():
            raise InputError(f"{root}: was begun with {plan['versions']}: install these to go on")
        return plan
    units = {
        name: _in_order(readers.units(source, mixture.unit_mb * _MB), f"{mixture.seed}/{name}")
        for name, source in mixture.sources.items()
    }
    tokenizer = _tokenizer(mixture, root, units)
    (root / tokenise.SHARDS).mkdir(parents=True, exist_ok=True)
    plan = {"mixture": config, "versions": versions, "tokenizer": tokenizer, "units": units}
    storage.write_json(root / PLAN, plan, root)
    return plan


def _in_order(units: list[Unit], seed: str) -> list[Unit]:
    """Shuffled, so that the first units represent the source."""
    return sorted(units, key=lambda u: hashlib.sha256(f"{seed}/{json.dumps(u)}".encode()).digest())


def _tokenizer(mixture: Mixture, root: epath.Path, units: dict[str, list[Unit]]) -> dict[str, Any]:
    """Puts the tokenizer into the build; returns its SHA-256 and its size."""
    with storage.scratch(root) as directory:
        if mixture.tokenizer.path:
            from ladder_jax.data.tokenizer import find_tokenizer

            tokenizer = find_tokenizer(mixture.tokenizer.path)
        else:
            sample = tuple(_sample(mixture, units))
            tokenizer = train_bpe(sample, mixture.tokenizer.vocab_size, directory)
        end_of_text(tokenizer)
        local = directory / built.TOKENIZER
        tokenizer.save(str(local))
        vocab_size = 1 + max(tokenizer.get_vocab().values())
        return storage.publish(local, root / built.TOKENIZER) | {"vocab_size": vocab_size}


def _sample(mixture: Mixture, units: dict[str, list[Unit]]) -> Iterator[Document]:
    """The first training documents of every source, by weight."""
    for name, source in mixture.sources.items():
        share = mixture.wanted(name) / mixture.n_tokens
        room = mixture.tokenizer.sample_mb * _MB * share
        texts = itertools.chain.from_iterable(readers.documents(source, u) for u in units[name])
        for i, text in enumerate(texts):
            raw = text.encode()
            if tokenise.part_of(raw, mixture) == "train":
                yield Document(f"{name}:{i}", text)
                room -= len(raw)
            if room <= 0:
                break


def _make_all(
    mixture: Mixture, root: epath.Path, sources: list[_Source], workers: int, progress: bool
) -> int:
    """Makes units until every source has its share; returns how many were there already."""
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"),
        initializer=tokenise.begin, initargs=(str(root), os.getpid()),
    )  # fmt: skip
    bar = tqdm(total=sum(s.gives for s in sources) * mixture.seq_len, unit="token",
               unit_scale=True, desc="data build", disable=None if progress else True)  # fmt: skip
    running: dict[concurrent.futures.Future, tuple[_Source, int]] = {}
    found = 0
    with pool, bar:
        try:
            while True:
                while len(running) < workers and (step := _next(sources)):
                    source, i = step
                    job = UnitJob(str(root), mixture, source.name, i, source.units[i], source.gives)
                    running[pool.submit(tokenise.run, job)] = step
                if not running:
                    return found
                for future in concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done:
                    source, i = running.pop(future)
                    made = future.result()
                    found += made.pop("found")
                    source.made[i] = made
                    bar.update(made["train"]["tokens"])
        except BaseException as e:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(e, BrokenProcessPool):
                raise InputError(
                    "a worker died (out of memory?): run the command again, it resumes"
                ) from None
            if isinstance(e, OSError):
                raise InputError(f"{root}: cannot be written: {e.strerror or e}") from None
            raise


def _next(sources: list[_Source]) -> tuple[_Source, int] | None:
    for source in sources:
        number = source.next()
        if number is not None:
            return source, number
    return None


def _drop(root: epath.Path, source: _Source) -> None:
    """Removes units that were made in advance and are not needed."""
    for i in sorted(source.made)[len(source.kept()) :]:
        stem = tokenise.stem(source.name, i)
        for name in (f"{stem}.json", *(f"{stem}-{part}.array_record" for part in built.PARTS)):
            (root / name).unlink(missing_ok=True)


def _index(mixture: Mixture, plan: dict[str, Any], sources: list[_Source]) -> dict[str, Any]:
    """The content of `index.json`.

    Raises:
        InputError: a part holds nothing.
    """
    described = {source.name: _describe(source, mixture) for source in sources}
    every = [shard for each in described.values() for shard in each["shards"]]
    held = [shard for shard in every if shard["part"] == "heldout"]
    if not held:
        raise InputError("no document is held out: raise `heldout_fraction`, with another `out`")
    tokens = {
        "train": sum(each["tokens_given"] for each in described.values()),
        "heldout": sum(shard["tokens"] for shard in held),
    }
    made_of = json.dumps([plan["tokenizer"]["sha256"], [shard["sha256"] for shard in every],
                          [each["gives"] for each in described.values()]])  # fmt: skip
    return {
        "format": built.FORMAT,
        "fingerprint": hashlib.sha256(made_of.encode()).hexdigest(),
        "seq_len": mixture.seq_len,
        "vocab_size": plan["tokenizer"]["vocab_size"],
        "n_tokens": tokens,
        "heldout_bytes": sum(shard["text_bytes"] for shard in held),
        "made_of": {key: plan[key] for key in ("mixture", "tokenizer", "versions")},
        "sources": described,
    }


def _describe(source: _Source, mixture: Mixture) -> dict[str, Any]:
    kept = source.kept()
    shards = [{"part": part} | made[part] for made in kept for part in built.PARTS]
    shards = [shard for shard in shards if shard["records"]]
    train = [shard for shard in shards if shard["part"] == "train"]
    holds = sum(shard["records"] for shard in train)
    if not holds:
        raise InputError(f"source {source.name!r}: no text to train on")
    times, rest = divmod(source.gives, holds)
    given = times * sum(shard["tokens"] for shard in train)
    for shard in train:
        given += min(rest * mixture.seq_len, shard["tokens"])
        rest -= min(rest, shard["records"])
    return {
        "weight": mixture.sources[source.name].weight,
        "documents": sum(made["documents"] for made in kept),
        "gives": source.gives,
        "tokens_given": given,
        "epochs": round(source.gives / holds, 4),
        "shards": shards,
    }
