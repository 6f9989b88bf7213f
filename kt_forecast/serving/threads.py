"""Threads that take all that waits at once, and the way back to those who wait."""

import logging
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

log = logging.getLogger("kt_forecast.serving")


@dataclass(frozen=True)
class Ticket:
    """Where an answer is waited for.

    Attributes:
        loop: that waits.
        future: of the answer.
    """

    loop: AbstractEventLoop
    future: "Future[Any]"

    @classmethod
    def of(cls, loop: AbstractEventLoop) -> "Ticket":
        """Return a ticket to wait for in a loop."""
        return cls(loop, loop.create_future())


def settle(found: Sequence[tuple[Ticket, Any]]) -> None:
    """Hand answers, or errors, to those who wait; a loop is woken once."""
    for loop in {id(ticket.loop): ticket.loop for ticket, _ in found}.values():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_deliver, [one for one in found if one[0].loop is loop])


def _deliver(found: Sequence[tuple[Ticket, Any]]) -> None:
    for ticket, answer in found:
        if ticket.future.done():
            continue
        if isinstance(answer, BaseException):
            ticket.future.set_exception(answer)
        else:
            ticket.future.set_result(answer)


_END = object()


class Gatherer:
    """A thread that handles what waits in groups, and slow work in pieces between them.

    Args:
        name: of the thread.
        handle: takes a group; may return slow work: iterators, each of whose steps is a piece.
        most: things of a group, at most.
    """

    def __init__(
        self, name: str, handle: Callable[[list[Any]], Sequence[Iterator[Any]]], most: int
    ) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._handle, self._most = handle, most
        self._slow: deque[Iterator[Any]] = deque()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Any) -> None:  # noqa: ANN401
        """Let a thing wait for its turn."""
        self._queue.put(item)

    @property
    def waiting(self) -> int:
        """Return how many things wait."""
        return self._queue.qsize()

    def stop(self) -> None:
        """Wait until all that waits is handled, and end the thread."""
        self._queue.put(_END)
        self._thread.join()

    def rest(self) -> list[Any]:
        """Return what came after the end."""
        return self._taken(wait=False)

    def _run(self) -> None:
        ended = False
        while not ended or self._slow:
            group = self._taken(wait=not self._slow and not ended)
            if _END in group:
                ended = True
                group = [item for item in group if item is not _END]
            if group:
                self._slow.extend(self._handled(group))
            if self._slow:
                self._piece()

    def _taken(self, *, wait: bool) -> list[Any]:
        group = [self._queue.get()] if wait else []
        while len(group) < self._most:
            try:
                group.append(self._queue.get_nowait())
            except Empty:
                break
        return group

    def _handled(self, group: list[Any]) -> Sequence[Iterator[Any]]:
        try:
            return self._handle(group)
        except Exception:
            log.exception("a group of %d could not be handled", len(group))
            return ()

    def _piece(self) -> None:
        work = self._slow.popleft()
        try:
            next(work)
        except StopIteration:
            return
        except Exception:
            log.exception("slow work ended early")
            return
        self._slow.append(work)
