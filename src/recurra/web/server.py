"""Serves the page on this machine: files, and what it asks of the network as JSON or as packed floats."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import webbrowser
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurra.errors import ArgumentError, RecurraError
from recurra.lens.calls import recurrent_modules
from recurra.web import findings, searching
from recurra.web.beginning import Beginning, beginning, other_model
from recurra.web.equations import strongest, unit_numbers
from recurra.web.lesson import Lesson
from recurra.web.recording import Recording, describe, packed_trace, record, trace_at
from recurra.web.refusals import Refusal, language_of, sentence
from recurra.web.subject import Sample, Subject, open_subject

if TYPE_CHECKING:
    from fastapi import FastAPI

PORTS = 20
"""How many ports are tried, from the one that was asked for upwards."""
KEPT = 8
"""Runs that are remembered, so that stepping from unit to unit does not run the network again."""
FOUND, SHELVES = 32, 2
"""Findings that are remembered, for who comes back to a tab, and gates or states of all data at once."""
_PROBLEM = "application/problem+json"  # RFC 9457
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Desk:
    """What one server works on: the subject, the last runs, the lesson. One run at a time, whoever asks."""

    def __init__(self, subject: Subject, begin: Callable[[], Beginning]) -> None:
        self.subject = subject
        self._begin = begin
        self._began: Beginning | None = None
        self.layers = recurrent_modules(subject.network)
        self.session = secrets.token_hex(8)
        self.lesson = Lesson()
        self.lock = threading.RLock()
        self._samples: OrderedDict[Any, Sample] = OrderedDict()
        self._runs: OrderedDict[Any, Recording] = OrderedDict()
        self._found: OrderedDict[Any, Any] = OrderedDict()
        self._shelves: OrderedDict[Any, searching.Library] = OrderedDict()

    @property
    def began(self) -> Beginning:
        """The network to compare with, made when first asked for."""
        if self._began is None:
            self._began = self._begin()
        return self._began

    def sample(self, asked: dict[str, Any]) -> Sample:
        """The sample of {"index": i} or {"text": words or numbers}. Raises ArgumentError for no such one."""
        text, index = asked.get("text"), asked.get("index")
        key = (text, index)
        if key not in self._samples:
            if isinstance(text, str):
                if self.subject.typed is None:
                    raise Refusal("covariates")
                made = self.subject.typed(text)
            elif isinstance(index, int) and 0 <= index < len(self.subject.titles):
                made = self.subject.sample(index)
            else:
                raise Refusal("sample", most=len(self.subject.titles) - 1, got=repr(asked)[:80])
            _keep(self._samples, key, made)
        return self._samples[key]

    def answer(self, sample: Sample, output: Any) -> dict[str, Any]:
        """What to tell of the network's answer to a sample: name → at most 12 numbers.

        Of an estimator `kind`, `rows` (`recurra.web.estimators.Told`), and `given` by the data.
        """
        if sample.told is not None:
            return sample.told
        if (told := self.subject.told) is not None:
            return {"kind": told.kind, "rows": told.rows([output], sample), "given": sample.given}
        return {"output": findings.plain(self.subject.numbers(output)[0][:12])}

    def find(self, what: str, asked: dict[str, Any]) -> Any:
        """What a tab shows: the findings called ``what`` for a sample and a layer. Raises ArgumentError."""
        chosen, path = _run_asked(asked)
        place = _number(asked, "layer"), _number(asked, "direction")
        with self.lock:
            sample = self.sample(chosen)
            subject, inputs = self.subject, sample.inputs
            ways: dict[str, Callable[[], Any]] = {
                "memory": lambda: findings.memory(
                    subject.network, findings.together(subject, sample), path, *place, self.began
                ),
                "context": lambda: findings.context(subject, inputs, subject.network),
                "context_before": lambda: findings.context(subject, inputs, self.began.network),
                "search": lambda: self.search(sample, path, asked),
                "gradients": lambda: findings.gradients(subject, inputs, path),
                "compared": lambda: findings.compared(self.run(chosen, path)[1]),
                "mattered": lambda: {
                    **findings.mattered(
                        subject,
                        sample,
                        None if asked.get("component") is None else _number(asked, "component"),
                        str(asked.get("method")),
                    ),
                    "labels": sample.labels,
                },
                "ablated": lambda: findings.ablated(subject, inputs, path, *place),
                "diagram": lambda: {"svg": findings.drawn(subject, inputs, str(asked.get("theme")))},
                "edited": lambda: findings.edited(subject, sample, path, asked),
            }
            if what not in ways:
                raise Refusal("what", known=", ".join(ways), got=repr(what)[:40])
            key = what, json.dumps(asked, sort_keys=True)
            if key in self._found:
                return self._found[key]
            try:
                _keep(self._found, key, ways[what](), FOUND)
                return self._found[key]
            except RecurraError:
                raise
            except Exception as error:  # whatever a network of the user's may raise
                told = " ".join(str(error).split())[:200]
                raise Refusal("uncomputed", error=f"{type(error).__name__}: {told}") from error

    def search(self, sample: Sample, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        """See `searching.search`; the data are run through the layer once for each gate or state."""
        variable, threshold = str(asked.get("variable", "hidden")), asked.get("threshold", 0.3)
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool):
            raise Refusal("value", name="threshold", got=repr(threshold)[:40])
        places = {name: _number(asked, name) for name in ("start", "stop", "layer", "direction")}
        trace_at(self.run(asked["sample"], path)[1], places["layer"], places["direction"])  # or refuse
        if (path, variable) not in self._shelves:
            _keep(self._shelves, (path, variable), searching.library(self.subject, path, variable), SHELVES)
        only = bool(asked.get("only", True))
        wanted = {**places, "sample": asked["sample"], "variable": variable, "only": only}
        shelf = self._shelves[path, variable]
        return searching.search(self.subject, shelf, sample, path, {**wanted, "threshold": float(threshold)})

    def run(self, asked: dict[str, Any], path: str) -> tuple[Sample, Recording]:
        """The sample, and what the layer at ``path`` did with it. Raises ArgumentError; see `record`."""
        with self.lock:
            sample = self.sample(asked)
            key = (asked.get("text"), asked.get("index"), path)
            if key not in self._runs:
                _keep(self._runs, key, record(self.subject.network, sample.inputs, path))
            return sample, self._runs[key]


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any, most: int = KEPT) -> None:
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)


def build_app(model: Any, data: Any = None, host: str = "127.0.0.1", before: Any = None) -> Any:
    """The page as an ASGI application, for `serve` or for a server of your own.

    ``model`` and ``data``: see `recurra.web.subject.open_subject`. ``host``: the name under which it will be
    asked for; requests for other names are refused, so that no web site reaches it through a name of its own.
    ``before``: the model before it was trained, for the tab on memory; None: a new one of the same build.
    Raises ArgumentError for a model or data that cannot be shown, and where FastAPI is not installed.

    A request that cannot be answered gets 400 and a JSON object with `error`, a sentence in the language that
    Accept-Language names; or 200 with the same, of the type application/problem+json, where Accept names that
    type: the page does, since browsers write each 400 on their console.
    """
    try:
        from fastapi import Body, FastAPI
        from fastapi.responses import FileResponse, JSONResponse, Response
        from fastapi.staticfiles import StaticFiles
    except ImportError as error:
        raise ArgumentError(
            f"the page needs {error.name}, which is not installed: pip install 'recurra[lens]'"
        ) from error
    desk = _desk(model, data, before)
    static = Path(str(files("recurra.web") / "static"))
    app = FastAPI(title="recurra inspect", docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, host)

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
        more = {
            "strip": sample.strip,
            "answer": desk.answer(sample, recording.output),
            "unknown": sample.unknown,
        }
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


def _guard(app: FastAPI, host: str) -> None:
    """Who is answered, with which headers, and how a refusal is told."""
    from fastapi import Request
    from fastapi.middleware.trustedhost import TrustedHostMiddleware
    from fastapi.responses import JSONResponse, Response

    names = ["127.0.0.1", "localhost", "[::1]", host]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"] if host in ("0.0.0.0", "::") else names)

    @app.middleware("http")
    async def headers(request: Request, answer: Callable[..., Any]) -> Response:
        response: Response = await answer(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(RecurraError)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        told = {"error": sentence(error, language_of(request.headers.get("accept-language", "")))}
        understood = _PROBLEM in request.headers.get("accept", "")
        return JSONResponse(told, 200 if understood else 400, media_type=_PROBLEM)


def _desk(model: Any, data: Any, before: Any) -> Desk:
    subject = open_subject(model, data)
    if before is None:
        return Desk(subject, lambda: beginning(model, subject))
    recurrent_modules(subject.network)
    other = other_model(before, subject)
    return Desk(subject, lambda: other)


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
        "named": subject.named,
        "layers": [describe(path, layer) for path, layer in desk.layers.items()],
        "parameters": subject.parameters or sum(weight.numel() for weight in subject.network.parameters()),
        "tabs": ["watch", "learn", "memory", "gradients", "mattered", "search", "edit", "diagram"],
    }


def _run_asked(asked: dict[str, Any]) -> tuple[dict[str, Any], str]:
    sample, path = asked.get("sample"), asked.get("module")
    if not isinstance(sample, dict) or not isinstance(path, str):
        raise Refusal("asked")
    return sample, path


def _number(asked: dict[str, Any], name: str) -> int:
    value = asked.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refusal("whole", name=name, got=repr(value)[:40])
    return value


def free_socket(host: str, port: int) -> socket.socket:
    """A listening socket at ``port`` or at the first of the next that is free. Raises ArgumentError."""
    if not 0 <= port < 65536:
        raise ArgumentError(f"port: expected 0 to 65535, got {port}; leave it out, or give 8765, say")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + PORTS, 65536)):
        # named as TCP, for asyncio turns Nagle's delay of 40 ms off where it sees that
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
    before: Any = None,
) -> None:
    """Open the page on ``model`` and serve it until Ctrl-C.

    ``model``, ``data``: a fitted `Forecaster` and its table, or an `nn.Module` and its samples, as
    `recurra.web.subject.open_subject` has them. ``host``: only this machine can reach the page unless you
    name another. ``port``: the next free one where it is taken. ``say`` gets the address in a sentence.
    ``before``: the model before it was trained, for the tab on memory; None: a new one of the same build.
    Raises ArgumentError for what cannot be shown or served, and where FastAPI or uvicorn is not installed.

    For example::

        import torch
        from recurra.web import serve

        serve(torch.nn.LSTM(1, 8, batch_first=True), torch.randn(5, 40, 1))
    """
    app = build_app(model, data, host, before)
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
