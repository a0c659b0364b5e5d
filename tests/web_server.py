"""A server of the page in a thread, for the tests, and the networks that it shows."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from recurra.web.server import build_app, free_socket


class Counter(nn.Module):
    """A user's own module around torch's LSTM."""

    def __init__(self, layers: int = 1, hidden: int = 7, features: int = 2) -> None:
        super().__init__()
        self.rnn = nn.LSTM(features, hidden, num_layers=layers, bidirectional=layers > 1, batch_first=True)
        self.top = nn.Linear(hidden * (1 + (layers > 1)), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.rnn(x)[0][:, -1])


class Reader(nn.Module):
    """One that reads words."""

    def __init__(self, unknown: bool = False) -> None:
        super().__init__()
        self.vocabulary = ["the", "cat", "dog", "sat", "on", "a", "mat", "."] + ["<unk>"] * unknown
        self.embedding = nn.Embedding(len(self.vocabulary), 3)
        self.gru = nn.GRU(3, 5, batch_first=True)
        self.top = nn.Linear(5, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.top(self.gru(self.embedding(tokens))[0][:, -1])


@contextmanager
def served(model: Any, data: Any = None, port: int = 0, before: Any = None) -> Iterator[str]:
    """The address of a server that runs until the end of the block."""
    import uvicorn

    app = build_app(model, data, before=before)
    listening = free_socket("127.0.0.1", port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        for _ in range(200):
            if server.started:
                break
            time.sleep(0.02)
        yield address
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listening.close()


def asked(address: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    """(status, bytes) of a request; a POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{address}/{path}", data, {"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def unpacked(answer: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a packed answer, and its arrays by name."""
    size = int.from_bytes(answer[:4], "little")
    header = json.loads(answer[4 : 4 + size])
    arrays, at = {}, 4 + size
    for variable in header["variables"]:
        steps, units = variable["shape"]
        values = torch.frombuffer(bytearray(answer[at : at + 4 * steps * units]), dtype=torch.float32)
        arrays[variable["name"]] = values.reshape(steps, units)
        at += 4 * steps * units
    assert at == len(answer)
    return header, arrays


def taken_port() -> socket.socket:
    """A socket that listens, so that its port is in use."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken
