"""What runs behind the web: one thread that writes, one that computes, and how a request passes.

A request to append waits for the log first and for the model afterwards, so that what is answered
is on the disk. Both threads take all that waits at once: one transaction, one pass.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.serving.models import TRACING, Loaded, Origin
from kt_forecast.serving.settings import Settings
from kt_forecast.serving.store import Append, Appended, Event, Refused, Store
from kt_forecast.serving.threads import Gatherer, Ticket, log, settle
from kt_forecast.serving.tracing import Students, Voice


class Unavailable(Exception):  # noqa: N818 - what it says to the caller, not what broke
    """The service cannot do it now; the caller may try again."""


class Conflict(Exception):  # noqa: N818 - as above
    """What was asked for contradicts what is known."""


@dataclass(frozen=True)
class Write:
    """Events to append, and the job that the model gets once they are in the log."""

    ticket: Ticket
    append: Append
    job: Callable[[Ticket, Appended], Any]


@dataclass(frozen=True)
class Keep:
    """States to write."""

    states: list[tuple[int, str, int, bytes]]


@dataclass(frozen=True)
class Change:
    """A model to go on with."""

    ticket: Ticket
    loaded: Loaded


class Service:
    """One model at work.

    Args:
        origin: where the model comes from.
        store_url: where log and states are.
        settings: the operator's.

    Attributes:
        loaded: the model now.
        ready: whether requests are answered.
        failure: why the store does not take events; empty where it does.

    Raises:
        InputError: the model may not be served, or the store cannot be opened.
    """

    def __init__(self, origin: Origin, store_url: str, settings: Settings) -> None:
        self.origin, self.settings = origin, settings
        self.loaded = origin.load()
        self.store = Store(store_url, self.loaded.task, self._may_follow)
        self.store.opened(self.loaded.facts())
        self.minds = self._minds(self.loaded)
        self.writer = Gatherer("writer", self._write, settings.together)
        self.model = Gatherer("model", self._compute, settings.together)
        self.ready, self.failure = True, ""
        self.groups: Callable[[str, int], None] = lambda _name, _size: None
        self._reloading = asyncio.Lock()

    def _may_follow(self, name: str, last: int | None, events: Sequence[Event]) -> str | None:
        try:
            return self.minds.rule(name, last, events)
        except Exception:  # noqa: BLE001 - said to the one who asked
            log.exception("events of %r cannot be placed", name)
            return f"{name!r}: these events cannot be placed after the last one"

    def _minds(self, loaded: Loaded) -> Any:  # noqa: ANN401 - `Students` or `Series`
        live = self.settings.live
        if loaded.task == TRACING:
            return Students(self._voice(loaded), self.store, live, self._keep)
        from kt_forecast.serving.forecasting import Series

        return Series(self._voice(loaded), self.store, live)

    def _voice(self, loaded: Loaded) -> Any:  # noqa: ANN401 - of the one or the other
        if loaded.task == TRACING:
            return Voice.of(loaded.fitted, loaded.version, bundled=self.settings.bundled)
        from kt_forecast.serving import forecasting

        return forecasting.Voice(loaded.fitted, loaded.version)

    @property
    def voice(self) -> Any:  # noqa: ANN401
        """Return the model as it is asked."""
        return self.minds.voice

    async def append(self, append: Append, job: Callable[[Ticket, Appended], Any]) -> Any:  # noqa: ANN401
        """Append events and have the model do a job; return what came of it.

        Raises:
            Conflict: the events or their key contradict the log.
            Unavailable: too much waits, or the store failed.
            InputError: the job cannot be done.
        """
        ticket = self._ticket()
        self.writer.put(Write(ticket, append, job))
        return await ticket.future

    async def ask(self, job: Callable[[Ticket], Any]) -> Any:  # noqa: ANN401
        """Have the model do a job; return what came of it.

        Raises:
            Unavailable: too much waits.
            InputError: the job cannot be done.
        """
        ticket = self._ticket()
        self.model.put(job(ticket))
        return await ticket.future

    async def reload(self, *, only_newer: bool = False) -> bool:
        """Load the model again and go on with it; return whether another one answers now.

        Requests that wait are answered by the one or the other, none is dropped.

        Raises:
            InputError: the model may not be served, or is for another task.
        """
        async with self._reloading:
            if only_newer and not await asyncio.to_thread(self.origin.is_newer):
                return False
            loaded = await asyncio.to_thread(self.origin.load)
            if loaded.task != self.loaded.task:
                raise InputError(
                    f"{loaded.name}: is for {loaded.task} now; accepted is a model for"
                    f" {self.loaded.task}"
                )
            if loaded.version == self.loaded.version:
                return False
            ticket = Ticket.of(asyncio.get_running_loop())
            self.model.put(Change(ticket, loaded))
            await ticket.future
            self.loaded = loaded
            return True

    def stop(self) -> None:
        """Answer all that waits, keep all states, and let the store go."""
        self.ready = False
        self.writer.stop()
        self.model.stop()
        # Both threads are at an end, so that this one may do their work: the model's last states.
        self._write(self.writer.rest())
        self.minds.save(self.store.keep)
        self.store.close()

    def _ticket(self) -> Ticket:
        """Return a ticket for one more request.

        Raises:
            Unavailable: too many wait.
        """
        if self.writer.waiting + self.model.waiting >= self.settings.pending:
            raise Unavailable("too many requests wait for the model; try again in a moment")
        return Ticket.of(asyncio.get_running_loop())

    def _keep(self, states: list[tuple[int, str, int, bytes]]) -> None:
        self.writer.put(Keep(states))

    def _write(self, group: list[Any]) -> tuple[()]:
        writes = [item for item in group if isinstance(item, Write)]
        states = [state for item in group if isinstance(item, Keep) for state in item.states]
        if writes:
            self.groups("writer", len(writes))
            self._append(writes)
        others = [item for item in group if callable(item)]
        try:
            if states:
                newest = {state[0]: state for state in states}
                self.store.keep(list(newest.values()))
            for work in others:
                work()
        except Exception:  # noqa: BLE001 - a state is only a cache
            log.exception("%d states could not be kept; they will be made anew", len(states))
        return ()

    def _append(self, writes: list[Write]) -> None:
        try:
            outcomes = self.store.append([write.append for write in writes])
            self.failure = ""
        except Exception as error:  # noqa: BLE001 - said to each who waits
            log.exception("%d requests could not be written", len(writes))
            reason = str(getattr(error, "orig", None) or error).strip()
            self.failure = reason.partition("\n")[0] or type(error).__name__
            sorry = Unavailable("the store does not take events now; nothing was appended")
            settle([(write.ticket, sorry) for write in writes])
            return
        refused = []
        for write, outcome in zip(writes, outcomes, strict=True):
            if isinstance(outcome, Refused):
                refused.append((write.ticket, Conflict(outcome.sentence)))
            else:
                self.model.put(write.job(write.ticket, outcome))
        settle(refused)

    def _compute(self, group: list[Any]) -> list[Iterator[Any]]:
        slow: list[Iterator[Any]] = []
        jobs: list[Any] = []
        for item in group:
            if not isinstance(item, Change):
                jobs.append(item)
                continue
            slow += self._handled(jobs)
            jobs = []
            self.minds.replace(self._voice(item.loaded))
            self.writer.put(partial(self.store.opened, item.loaded.facts()))
            settle([(item.ticket, None)])
        return slow + self._handled(jobs)

    def _handled(self, jobs: list[Any]) -> list[Iterator[Any]]:
        if not jobs:
            return []
        self.groups("model", len(jobs))
        try:
            return self.minds.handle(jobs)
        except Exception as error:  # noqa: BLE001 - said to each who still waits
            log.exception("%d jobs failed", len(jobs))
            failed = RuntimeError(f"the model failed: {type(error).__name__}")
            settle([(job.ticket, failed) for job in jobs])
            return []
