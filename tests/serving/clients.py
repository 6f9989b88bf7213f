"""A real service in a process of its own, and clients that post to it over TCP."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

STARTS_WITHIN = 600


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@dataclass
class Served:
    """A service that runs as `kt-forecast serve` does."""

    model: str
    store: str
    runs: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None

    def start(self) -> "Served":
        command = [sys.executable, "-m", "kt_forecast.cli", "serve", self.model]
        command += ["--store", self.store, "--port", str(self.port), "--runs", str(self.runs)]
        command += self.options
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
        )
        until = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(self.process.stdout.read())
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return self
            except OSError:
                time.sleep(0.05)
        raise TimeoutError("the service does not listen")

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self, within: float = 300) -> tuple[int, str]:
        """Ask it to stop; return its exit status and what it printed."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=within)
        return self.process.returncode, said


class Client:
    """Posts one request after the other over one connection; opens it anew where it breaks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader = self.writer = None

    async def post(self, path: str, body: dict, key: str | None = None) -> tuple[int, dict]:
        return await self.send("POST", path, json.dumps(body).encode(), key)

    async def get(self, path: str) -> tuple[int, dict]:
        return await self.send("GET", path, b"", None)

    async def send(self, method: str, path: str, body: bytes, key: str | None) -> tuple[int, dict]:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        named = f"Idempotency-Key: {key}\r\n" if key is not None else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{named}Content-Length: {len(body)}\r\n"
        try:
            self.writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            answer = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            size = int(answer.split(b"content-length: ")[1].split(b"\r\n")[0])
            return int(answer.split(b" ")[1]), json.loads(await self.reader.readexactly(size))
        except (OSError, asyncio.IncompleteReadError, IndexError):
            self.close()
            raise ConnectionError("the connection broke") from None

    async def insist(self, path: str, body: dict, key: str, until: float) -> tuple[int, dict]:
        """Send a request again and again until it is answered.

        Raises:
            TimeoutError: it is not.
        """
        while True:
            try:
                status, reply = await self.post(path, body, key)
                if status != 503:
                    return status, reply
            except OSError:
                pass
            if time.monotonic() > until:
                raise TimeoutError(f"{key} was never answered")
            await asyncio.sleep(0.02)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
