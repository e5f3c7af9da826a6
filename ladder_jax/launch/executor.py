"""What the grid asks of whatever computes its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

from fitting.errors import InputError
from ladder_jax.config import RunConfig
from ladder_jax.launch.job import Job


class Ended(NamedTuple):
    """An attempt at a job that is over.

    Attributes:
        job: which.
        code: exit status: 0, `preemption.EXIT_CODE` (saved, to be started again) or that of a
            failure; None if its process or machine was lost.
        reason: of a failure or a loss, one line.
    """

    job: Job
    code: int | None
    reason: str = ""


class Executor(Protocol):
    """Where jobs are computed.  Leaving its block kills what still runs."""

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs; the first are to begin first."""
        ...

    def ended(self, timeout: float) -> list[Ended]:
        """Attempts that are over and not yet reported; waits for one, `timeout` seconds at most."""
        ...

    def notify(self) -> None:
        """Has every job save and end; each is still reported by `ended`."""
        ...


@dataclass(frozen=True)
class Demands:
    """What runs ask of their machines: key -> value, by size; "" stands for all sizes."""

    by_size: Mapping[str, Mapping[str, str]]

    @classmethod
    def parse(cls, texts: Iterable[str], field: str, sizes: Iterable[str]) -> Demands:
        """Reads `KEY=VALUE` and `SIZE:KEY=VALUE`.

        Raises:
            InputError: a text is neither, or names a size that is none of `sizes`.
        """
        known, found = set(sizes), {}
        for text in texts:
            key, equals, value = text.partition("=")
            size, _, key = key.rpartition(":")
            if not (equals and key and value):
                raise InputError(f"`{field}` {text!r}: write KEY=VALUE or SIZE:KEY=VALUE")
            if size and size not in known:
                raise InputError(
                    f"`{field}` {text!r}: no size {size!r}; {', '.join(sorted(known))}"
                )
            found.setdefault(size, {})[key] = value
        return cls(found)

    def of(self, run: RunConfig) -> dict[str, str]:
        """A run's own: those of its size go before those of all."""
        return {**self.by_size.get("", {}), **self.by_size.get(run.size, {})}
