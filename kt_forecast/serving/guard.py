"""What a request meets before anything reads it: counting, keys, rates, sizes."""

import hmac
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic, perf_counter
from typing import Any

from kt_forecast.serving.metrics import Metrics
from kt_forecast.serving.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROTECTED = "/v1/"
CALLERS = 100_000
"""Callers whose rate is remembered."""


class Guard:
    """Refuses what is too much, too large or not allowed; counts all.

    Args:
        app: answers the rest.
        settings: what is too much.
        metrics: counts.
    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._keys = [key.encode() for key in settings.keys]
        self._callers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 500

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._guarded(scope, receive, counted)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "none")
            self._metrics.request(scope["method"], path, status, perf_counter() - started)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if scope["path"].startswith(PROTECTED):
            key = _key(headers)
            if self._keys and not self._is_known(key):
                challenge = [(b"www-authenticate", b"Bearer")]
                await _refuse(send, 401, "the API key is missing or not known", challenge)
                return
            client = scope.get("client")
            wait = self._wait(key.decode("latin-1") or (client[0] if client else ""))
            if wait > 0:
                again = [(b"retry-after", str(int(wait) + 1).encode())]
                await _refuse(send, 429, "too many requests of this caller; wait a moment", again)
                return
        told = headers.get(b"content-length", b"0")
        if not told.isdigit() or int(told) > self._settings.body:
            await self._too_large(send)
            return
        if b"transfer-encoding" in headers:
            body = await self._whole(receive)
            if body is None:
                await self._too_large(send)
                return
            receive = _again(body, receive)
        await self._app(scope, receive, send)

    def _is_known(self, key: bytes) -> bool:
        """Compare with every key, each in a time that tells nothing of it."""
        found = False
        for one in self._keys:
            found |= hmac.compare_digest(one, key)
        return found

    def _wait(self, caller: str) -> float:
        """Return the seconds that a caller must wait: a bucket that fills at the allowed rate."""
        rate, burst = self._settings.rate, self._settings.burst
        if rate <= 0:
            return 0.0
        now = monotonic()
        left, last = self._callers.pop(caller, (float(burst), now))
        left = min(float(burst), left + (now - last) * rate)
        allowed = left >= 1.0
        self._callers[caller] = (left - 1.0 if allowed else left, now)
        if len(self._callers) > CALLERS:
            self._callers.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / rate

    async def _whole(self, receive: Receive) -> bytes | None:
        """Return a body that did not tell its size; None where it is too large."""
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return body
            body += message.get("body", b"")
            if len(body) > self._settings.body:
                return None
            if not message.get("more_body"):
                return body

    async def _too_large(self, send: Send) -> None:
        sentence = f"the request is larger than the {self._settings.body} bytes accepted"
        await _refuse(send, 413, sentence, [(b"connection", b"close")])


def _key(headers: dict[bytes, bytes]) -> bytes:
    """Return the key of a request: ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(
    send: Send, status: int, sentence: str, headers: list[tuple[bytes, bytes]]
) -> None:
    body = json.dumps({"detail": sentence}).encode()
    kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*kind, *headers]})
    await send({"type": "http.response.body", "body": body})
