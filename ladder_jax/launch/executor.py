"""The interface between the grid and the executors that compute its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

from fitting.errors import InputError
from ladder_jax.config import RunConfig
from ladder_jax.launch.job import Job


class Ended(NamedTuple):
    """A finished attempt at a job.

    Attributes:
        job: the job.
        code: exit status: 0, `preemption.EXIT_CODE` (saved, to be started again) or another number
            after a failure; None if its process or machine was lost.
        reason: one line on why it failed or was lost.
    """

    job: Job
    code: int | None
    reason: str = ""


class Executor(Protocol):
    """Computes jobs.  It is a context manager; leaving its block kills jobs that still run."""

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs, to be started in this order."""
        ...

    def ended(self, timeout: float) -> list[Ended]:
        """Finished attempts not yet reported; waits at most `timeout` seconds for one."""
        ...

    def notify(self) -> None:
        """Requests every job to save and end; `ended` still reports each of them."""
        ...


@dataclass(frozen=True)
class Demands:
    """Resources that runs need, as size -> key -> value; the size "" means all sizes."""

    by_size: Mapping[str, Mapping[str, str]]

    @classmethod
    def parse(cls, texts: Iterable[str], field: str, sizes: Iterable[str]) -> Demands:
        """Reads `KEY=VALUE` and `SIZE:KEY=VALUE`.

        Raises:
            InputError: a text has neither form, or names a size that is not in `sizes`.
        """
        known, found = set(sizes), {}
        for text in texts:
            key, equals, value = text.partition("=")
            size, _, key = key.rpartition(":")
            if not (equals and key and value):
                raise InputError(f"`{field}` {text!r}: write KEY=VALUE or SIZE:KEY=VALUE")
            if size and size not in known:
                raise InputError(
                    f"`{field}` {text!r}: no size {size!r}; there are {', '.join(sorted(known))}"
                )
            found.setdefault(size, {})[key] = value
        return cls(found)

    def of(self, run: RunConfig) -> dict[str, str]:
        """The resources of a run: those of its size take precedence over those of all sizes."""
        return {**self.by_size.get("", {}), **self.by_size.get(run.size, {})}
