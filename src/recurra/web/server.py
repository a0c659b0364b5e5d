"""Serves the page on this machine: files, and what it asks of the network as JSON or as packed floats."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import webbrowser
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from recurra.errors import ArgumentError, RecurraError
from recurra.lens.calls import recurrent_modules
from recurra.web import findings
from recurra.web.equations import strongest, unit_numbers
from recurra.web.lesson import Lesson
from recurra.web.recording import Recording, describe, packed_trace, record
from recurra.web.subject import Sample, Subject, open_subject

PORTS = 20
"""How many ports are tried, from the one that was asked for upwards."""
KEPT = 8
"""Runs that are remembered, so that stepping from unit to unit does not run the network again."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Desk:
    """What one server works on: the subject, the last runs, the lesson. One run at a time, whoever asks."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.layers = recurrent_modules(subject.network)
        self.session = secrets.token_hex(8)
        self.lesson = Lesson()
        self.lock = threading.RLock()
        self._samples: OrderedDict[Any, Sample] = OrderedDict()
        self._runs: OrderedDict[Any, Recording] = OrderedDict()

    def sample(self, asked: dict[str, Any]) -> Sample:
        """The sample of {"index": i} or {"text": words or numbers}. Raises ArgumentError for no such one."""
        text, index = asked.get("text"), asked.get("index")
        key = (text, index)
        if key not in self._samples:
            if isinstance(text, str):
                if self.subject.typed is None:
                    raise ArgumentError(
                        "this model's covariates cannot be typed: choose a sample of the data"
                    )
                made = self.subject.typed(text)
            elif isinstance(index, int) and 0 <= index < len(self.subject.titles):
                made = self.subject.sample(index)
            else:
                most = len(self.subject.titles) - 1
                raise ArgumentError(
                    f"sample: expected an index from 0 to {most} or a text, got {asked!r:.80}"
                )
            _keep(self._samples, key, made)
        return self._samples[key]

    def answer(self, sample: Sample, output: Any) -> dict[str, list[float]]:
        """What to tell of the network's answer to a sample: name → at most 12 numbers."""
        if sample.told is not None:
            return sample.told
        return {"output": findings.plain(self.subject.numbers(output)[0][:12])}

    def find(self, what: str, asked: dict[str, Any]) -> Any:
        """What a tab shows: the findings called ``what`` for a sample and a layer. Raises ArgumentError."""
        chosen, path = _run_asked(asked)
        place = _number(asked, "layer"), _number(asked, "direction")
        with self.lock:
            sample = self.sample(chosen)
            subject, inputs = self.subject, sample.inputs
            ways: dict[str, Callable[[], Any]] = {
                "memory": lambda: findings.memory(subject, findings.together(subject, sample), path, *place),
                "context": lambda: findings.context(subject, inputs),
                "gradients": lambda: findings.gradients(subject, inputs, path),
                "compared": lambda: findings.compared(self.run(chosen, path)[1]),
                "mattered": lambda: {
                    **findings.mattered(
                        subject, inputs, _number(asked, "component"), str(asked.get("method"))
                    ),
                    "labels": sample.labels,
                },
                "ablated": lambda: findings.ablated(subject, inputs, path, *place),
                "diagram": lambda: {"svg": findings.drawn(subject, inputs, str(asked.get("theme")))},
                "edited": lambda: findings.edited(subject, inputs, path, asked),
            }
            if what not in ways:
                raise ArgumentError(
                    f"expected one of {', '.join(ways)}, got {what!r:.40}: load the page anew"
                )
            try:
                return ways[what]()
            except RecurraError:
                raise
            except Exception as error:  # whatever a network of the user's may raise
                told = " ".join(str(error).split())[:200]
                raise ArgumentError(
                    f"this cannot be computed for this network and sample ({type(error).__name__}: {told}): "
                    "choose another sample or layer"
                ) from error

    def run(self, asked: dict[str, Any], path: str) -> tuple[Sample, Recording]:
        """The sample, and what the layer at ``path`` did with it. Raises ArgumentError; see `record`."""
        with self.lock:
            sample = self.sample(asked)
            key = (asked.get("text"), asked.get("index"), path)
            if key not in self._runs:
                _keep(self._runs, key, record(self.subject.network, sample.inputs, path))
            return sample, self._runs[key]


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    if len(kept) > KEPT:
        kept.popitem(last=False)


def build_app(model: Any, data: Any = None, host: str = "127.0.0.1") -> Any:
    """The page as an ASGI application, for `serve` or for a server of your own.

    ``model`` and ``data``: see `recurra.web.subject.open_subject`. ``host``: the name under which it will be
    asked for; requests for other names are refused, so that no web site reaches it through a name of its own.
    Raises ArgumentError for a model or data that cannot be shown, and where FastAPI is not installed.
    """
    try:
        from fastapi import Body, FastAPI, Request
        from fastapi.middleware.trustedhost import TrustedHostMiddleware
        from fastapi.responses import FileResponse, JSONResponse, Response
        from fastapi.staticfiles import StaticFiles
    except ImportError as error:
        raise ArgumentError(
            f"the page needs {error.name}, which is not installed: pip install 'recurra[lens]'"
        ) from error
    desk = Desk(open_subject(model, data))
    static = Path(str(files("recurra.web") / "static"))
    app = FastAPI(title="recurra inspect", docs_url=None, redoc_url=None, openapi_url=None)
    names = ["127.0.0.1", "localhost", "[::1]", host]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"] if host in ("0.0.0.0", "::") else names)

    @app.middleware("http")
    async def headers(request: Request, answer: Callable[..., Any]) -> Response:
        response: Response = await answer(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(RecurraError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=400)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(static / "index.html")

    @app.get("/api/alive")
    def alive() -> dict[str, str]:
        return {"session": desk.session}

    @app.get("/api/model")
    def about() -> dict[str, Any]:
        return told_model(desk)

    @app.post("/api/trace")
    def trace(asked: dict[str, Any] = Body()) -> Response:  # noqa: B008
        sample, recording = desk.run(*_run_asked(asked))
        more = {"strip": sample.strip, "answer": desk.answer(sample, recording.output)}
        place = _number(asked, "layer"), _number(asked, "direction")
        packed = packed_trace(recording, *place, sample.labels, more)
        return Response(packed, media_type="application/octet-stream")

    @app.post("/api/unit")
    def unit(asked: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        _, recording = desk.run(*_run_asked(asked))
        return unit_numbers(recording, *(_number(asked, name) for name in ("layer", "direction", "unit")))

    @app.post("/api/products")
    def products(asked: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        _, recording = desk.run(*_run_asked(asked))
        return strongest(
            recording, *(_number(asked, name) for name in ("layer", "direction", "unit", "step"))
        )

    @app.post("/api/find/{what}")
    def find(what: str, asked: dict[str, Any] = Body()) -> Response:  # noqa: B008
        found = desk.find(what, asked)
        if isinstance(found, bytes):
            return Response(found, media_type="application/octet-stream")
        return JSONResponse(found)

    @app.get("/api/lesson")
    def lesson() -> dict[str, Any]:
        return desk.lesson.status()

    app.mount("/", StaticFiles(directory=static))
    return app


def told_model(desk: Desk) -> dict[str, Any]:
    """What the page asks first: the subject, its layers and samples, and which tabs there are."""
    subject = desk.subject
    return {
        "session": desk.session,
        "title": subject.title,
        "kind": subject.kind,
        "samples": subject.titles,
        "typed": subject.typed is not None,
        "features": subject.features,
        "hint": subject.hint,
        "layers": [describe(path, layer) for path, layer in desk.layers.items()],
        "parameters": sum(weight.numel() for weight in subject.network.parameters()),
        "tabs": ["watch", "learn", "memory", "gradients", "mattered", "edit", "diagram"],
    }


def _run_asked(asked: dict[str, Any]) -> tuple[dict[str, Any], str]:
    sample, path = asked.get("sample"), asked.get("module")
    if not isinstance(sample, dict) or not isinstance(path, str):
        raise ArgumentError("expected a sample and a module, got neither or one: load the page anew")
    return sample, path


def _number(asked: dict[str, Any], name: str) -> int:
    value = asked.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArgumentError(f"{name}: expected a whole number, got {value!r:.40}")
    return value


def free_socket(host: str, port: int) -> socket.socket:
    """A listening socket at ``port`` or at the first of the next that is free. Raises ArgumentError."""
    if not 0 <= port < 65536:
        raise ArgumentError(f"port: expected 0 to 65535, got {port}; leave it out, or give 8765, say")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + PORTS, 65536)):
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, candidate))
            made.listen(128)
        except (OSError, UnicodeError) as error:
            made.close()
            if getattr(error, "errno", None) in (98, 48, 13, 10048, 10013):  # in use, or not ours to take
                continue
            raise ArgumentError(
                f"host: nothing can be served at {host!r} ({error}): give 127.0.0.1"
            ) from error
        return made
    raise ArgumentError(f"port: {port} and the {PORTS - 1} after it are all in use; give another with --port")


def serve(
    model: Any,
    data: Any = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    open_browser: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Open the page on ``model`` and serve it until Ctrl-C.

    ``model``, ``data``: a fitted `Forecaster` and its table, or an `nn.Module` and its samples, as
    `recurra.web.subject.open_subject` has them. ``host``: only this machine can reach the page unless you
    name another. ``port``: the next free one where it is taken. ``say`` gets the address in a sentence.
    Raises ArgumentError for what cannot be shown or served, and where FastAPI or uvicorn is not installed.

    For example::

        import torch
        from recurra.web import serve

        serve(torch.nn.LSTM(1, 8, batch_first=True), torch.randn(5, 40, 1))
    """
    app = build_app(model, data, host)
    try:
        import uvicorn
    except ImportError as error:
        raise ArgumentError(
            "the page needs uvicorn, which is not installed: pip install 'recurra[lens]'"
        ) from error
    listening = free_socket(host, port)
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}"

    @contextlib.asynccontextmanager
    async def started(_: Any) -> AsyncIterator[None]:
        say(f"{address} shows {type(model).__name__}; Ctrl-C stops it")
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        yield

    app.router.lifespan_context = started
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(listening):
        uvicorn.Server(config).run(sockets=[listening])
