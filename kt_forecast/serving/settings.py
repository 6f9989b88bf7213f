"""What the operator of a service decides."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a service keeps, bounds and protects what it does.

    Attributes:
        live: students or series whose state stays in memory; the others' waits in the store.
        bundled: answers of equal time are one event, which sees none of its own responses.
        keys: accepted API keys; none lets everyone in.
        body: bytes of a request, at most.
        items: answers, observations or questions of a request, at most.
        rate: requests a second of one caller, on average; 0 sets no limit.
        burst: requests that one caller may make at once before the rate holds.
        pending: requests that wait for the model, at most.
        together: requests that the model answers in one pass, at most.
        poll: seconds between looks for a new version of an alias; 0 never looks.
        history: answers of a student that a page of mastery over time shows, at most.
    """

    live: int = 10_000
    bundled: bool = True
    keys: tuple[str, ...] = ()
    body: int = 1 << 20
    items: int = 1000
    rate: float = 0.0
    burst: int = 100
    pending: int = 10_000
    together: int = 128
    poll: float = 30.0
    history: int = 500
