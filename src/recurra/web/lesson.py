"""The networks of the page's lesson: an RNN, an LSTM and a GRU, trained in the background in seconds.

Their task: of T numbers one is marked; after the last, say which it was. Axes: N batch, T time, H hidden.
"""

from __future__ import annotations

import atexit
import threading
from typing import Any

import torch
from torch import Tensor

from recurra.nn import GRU, LSTM, RNN

STEPS, HIDDEN, ROUNDS, BATCH = 20, 6, 600, 64
KINDS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
TESTED = 2000


def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, T, 2) of numbers in -1..1 and marks, the marked numbers (N), and where they stand (N)."""
    values = torch.rand(rows, STEPS, generator=generator) * 2 - 1
    marked = torch.randint(0, STEPS, (rows,), generator=generator)
    marks = torch.nn.functional.one_hot(marked, STEPS).float()
    return torch.stack((values, marks), dim=2), values[torch.arange(rows), marked], marked


class Lesson:
    """Trains once, in a thread of its own, when first asked; `status` tells how far it is."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.done = 0
        self.networks: dict[str, Any] = {}
        self.failure = ""
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def status(self) -> dict[str, Any]:
        """For JSON: `state` training, ready or failed, `share` in 0..1, and when ready the `networks`."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="recurra-lesson", daemon=True)
                self._thread.start()
                atexit.register(self.stop)  # torch aborts the process that ends while it computes
        total = ROUNDS * len(KINDS)
        state = "failed" if self.failure else "ready" if len(self.networks) == len(KINDS) else "training"
        told = {"state": state, "share": self.done / total, "steps": STEPS, "hidden": HIDDEN}
        if state == "ready":
            told["networks"] = self.networks
        return told | ({"error": self.failure} if self.failure else {})

    def stop(self) -> None:
        """End the training where it is, and wait until it has ended."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # these products are too small to be shared out
        try:
            self.networks = {kind: self._train(kind) for kind in KINDS}
        except Exception as error:  # a thread's exception would reach nobody
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            torch.set_num_threads(threads)

    def _train(self, kind: str) -> dict[str, Any]:
        """Weights as lists, the loss over the rounds, and the error by how long ago the mark was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            layer, top = KINDS[kind](2, HIDDEN, batch_first=True), torch.nn.Linear(HIDDEN, 1)
        if kind == "lstm":
            with torch.no_grad():
                biases = layer.get_parameter("bias_ih_l0")
                biases[HIDDEN : 2 * HIDDEN] = 1.0  # Jozefowicz et al. 2015: begin by keeping
        weights = [*layer.parameters(), *top.parameters()]
        optimizer = torch.optim.Adam(weights, lr=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=ROUNDS, pct_start=0.1)
        generator = torch.Generator().manual_seed(self.seed + 1)
        losses = []
        for _ in range(ROUNDS):
            if self._stopped.is_set():
                raise InterruptedError("the server stops")
            x, wanted, _ = draw(BATCH, generator)
            loss = (top(layer(x)[0][:, -1])[:, 0] - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            self.done += 1
        x, wanted, marked = draw(TESTED, torch.Generator().manual_seed(self.seed + 2))
        with torch.no_grad():
            missed = (top(layer(x)[0][:, -1])[:, 0] - wanted).square()
        by_age = [missed[marked == STEPS - 1 - age].mean().sqrt().item() for age in range(STEPS)]
        named = {name: weight.detach().tolist() for name, weight in layer.named_parameters()}
        return {
            **named,
            "top_weight": top.weight.detach()[0].tolist(),
            "top_bias": top.bias.item(),
            "losses": losses[:: ROUNDS // 60],
            "error_by_age": by_age,
            "error": missed.mean().sqrt().item(),
            "parameters": sum(weight.numel() for weight in layer.parameters()),
        }
