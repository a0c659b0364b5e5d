"""What looking costs: a trace beside a forward pass, gradient flow beside a backward pass, the page's frames.

    .venv/bin/python benchmarks/lens.py [--part trace flow page] [--budget 2] [--threads 1] [--cpu]

Calls take turns in one process. Prints Markdown: times are medians, ratios those of medians, and in brackets
those of the quickest samples, which other work on the machine disturbs less. Where the two are far apart,
run it again. The page is timed in Chromium, headless, where Playwright and Chromium are. Takes two to three
minutes. Exits with 1 where a trace of one layer on whole rows costs more than 1.5 times a forward pass of
LONG seconds or more: below that the labels of a Dataset, about a millisecond whatever its size, are most of
it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import recurra.nn
from recurra import lens
from recurra.bench.timing import Spread, interleave

MOST, LONG = 1.5, 5e-3
SIZES = ((33, 63, 64), (64, 100, 128), (1, 500, 256))
LAYERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("LSTM", "LSTM", {}),
    ("GRU", "GRU", {}),
    ("LSTM, 2 layers, both ways", "LSTM", {"num_layers": 2, "bidirectional": True}),
)
PAGES = ((60, 64), (500, 256))
"""Steps and units that the page shows."""
VISITS = 5
STEPS_JS = """async (presses) => {
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const own = [], between = [];
    let last = await frame();
    for (let press = 0; press < presses; press++) {
        const before = performance.now();
        document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
        const key = performance.now() - before;
        const now = await frame();
        const start = performance.now();
        document.body.offsetHeight;
        own.push(key + performance.now() - start);
        between.push(now - last);
        last = now;
    }
    return [own, between];
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"trace": traces, "flow": flows, "page": pages}
    parser.add_argument("--part", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu", action="store_true", help="time on the CPU: for a machine that is not quiet")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu else time.perf_counter
    spent = "time on the CPU" if arguments.cpu else "time"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{arguments.threads} threads, {spent}, torch {torch.__version__}{load}")
    worst = [parts[part](arguments.budget, clock) for part in arguments.part]
    sys.exit(max(worst) > MOST)


def traces(budget: float, clock: Callable[[], float]) -> float:
    """Prints traces beside forward passes; the largest ratio that counts."""
    print("\n| layer | N | T | H | lengths | forward ms | layer.trace | lens.trace |")
    print("|---|---|---|---|---|---|---|---|")
    worst = 0.0
    for told, kind, options in LAYERS:
        for rows, steps, size in SIZES:
            layer = getattr(recurra.nn, kind)(size, size, batch_first=True, **options)
            x = torch.randn(rows, steps, size)
            mixed = torch.linspace(steps // 3, steps, rows).long()
            for name, lengths in (("all", None), ("a third to all", mixed))[: 1 + (rows > 1)]:
                calls = [
                    lambda layer=layer, x=x, lengths=lengths: layer(x, lengths=lengths),
                    lambda layer=layer, x=x, lengths=lengths: layer.trace(x, lengths=lengths),
                    lambda layer=layer, x=x, lengths=lengths: lens.trace(layer, x, lengths=lengths),
                ]
                with torch.no_grad():
                    base, *others = interleave(calls, budget=budget, clock=clock)
                if not options and lengths is None and base.median >= LONG:
                    worst = max(worst, *(other.median / base.median for other in others))
                line(told, rows, steps, size, name, f"{base.median * 1e3:.2f}", *beside(base, others))
    for rows, steps, size in SIZES:
        model = torch.nn.Sequential(torch.nn.LSTM(size, size, batch_first=True))  # inside a user's model
        x = torch.randn(rows, steps, size)
        calls = [lambda model=model, x=x: model(x), lambda model=model, x=x: lens.trace(model, x)]
        with torch.no_grad():
            base, hooked = interleave(calls, budget=budget, clock=clock)
        forward = f"{base.median * 1e3:.2f}"
        line("torch.nn.LSTM, by a hook", rows, steps, size, "all", forward, "–", *beside(base, [hooked]))
    return worst


def flows(budget: float, clock: Callable[[], float]) -> float:
    """Prints gradient flow beside a forward and a backward pass."""
    print("\n| layer | N | T | H | forward and backward ms | lens.gradient_flow |\n|---|---|---|---|---|---|")
    for told, kind, options in LAYERS:
        for rows, steps, size in SIZES[:2]:
            layer = getattr(recurra.nn, kind)(size, size, batch_first=True, **options)
            x = torch.randn(rows, steps, size)

            def both(layer: Any = layer, x: torch.Tensor = x) -> None:
                layer.zero_grad()
                layer(x)[0][:, -1].sum().backward()

            def flow(layer: Any = layer, x: torch.Tensor = x) -> object:
                return lens.gradient_flow(layer, x, loss=lambda result: result[0][:, -1].sum())

            base, flowing = interleave([both, flow], budget=budget, clock=clock)
            line(told, rows, steps, size, f"{base.median * 1e3:.2f}", *beside(base, [flowing]))
    return 0.0


def beside(base: Spread, others: list[Spread]) -> list[str]:
    return [f"{other.median / base.median:.2f} ({other.least / base.least:.2f})" for other in others]


def line(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def pages(budget: float, clock: Callable[[], float]) -> float:
    """Prints how soon the page is there, and how long its frames take when stepping."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        import uvicorn  # noqa: F401
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        print(f"\nThe page was not timed: {error.name} is not installed.")
        return 0.0
    if chromium is None:
        print("\nThe page was not timed: there is no Chromium on this machine.")
        return 0.0
    print(
        f"\nThe page in Chromium, headless: medians of {VISITS} visits, then a key press for each step. "
        "Own work: what "
        "the page computes for a step, in ms; a frame of 60 in a second has 16.7 ms.\n"
    )
    print("| T × H | first paint ms | first maps ms | own work: median, 95 %, most | frame: median, 95 % |")
    print("|---|---|---|---|---|")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for steps, size in PAGES:
            with served(recurra.nn.LSTM(3, size, batch_first=True), torch.randn(2, steps, 3)) as address:
                paints, drawn = [], []
                for _ in range(VISITS + 1):  # the first is the browser's own start
                    context = browser.new_context(viewport={"width": 1280, "height": 900})
                    page = context.new_page()
                    page.goto(address)
                    page.wait_for_function("() => document.querySelector('#unit')")
                    drawn.append(page.evaluate("() => performance.now()"))
                    paint = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
                    paints.append(page.evaluate(paint))
                    if len(paints) <= VISITS:
                        context.close()
                page.keyboard.press("Home")
                own, between = page.evaluate(STEPS_JS, steps - 1)
                reached = page.locator(".transport output").first.inner_text()
                assert reached.startswith(f"{steps} /"), f"the page is at {reached}, not at step {steps}"
                context.close()
            first = [f"{statistics.median(times[1:]):.0f}" for times in (paints, drawn)]
            work = ", ".join(f"{at(own, share):.2f}" for share in (0.5, 0.95, 1.0))
            frames = ", ".join(f"{at(between, share):.1f}" for share in (0.5, 0.95))
            line(f"{steps} × {size}", *first, work, frames)
        browser.close()
    return 0.0


def at(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


@contextmanager
def served(model: Any, data: Any) -> Iterator[str]:
    """The page's address until the end of the block; the server runs in a thread, where no signal is seen."""
    import uvicorn

    from recurra.web.server import build_app, free_socket

    listening = free_socket("127.0.0.1", 8765)
    config = uvicorn.Config(build_app(model, data), log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listening.close()


if __name__ == "__main__":
    main()
