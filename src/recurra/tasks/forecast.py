"""Forecast series: the estimator.

    from recurra import Forecaster
    forecaster = Forecaster(horizon=12).fit("air.csv")
    forecast = forecaster.predict("air.csv")

The way from a table to a forecast, each step in a file of its own: a panel (data.table), each series
relative to its own level and season (tasks.smoothing, tasks.remainder), windows as batches
(tasks.preparation), the segment LSTM with quantile outputs (tasks.segment_lstm), trained by train.fit with
the numbers of a plan (tasks.plan).

Axes: S series, N windows, Q horizon, K quantiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recurra import checkpoint
from recurra.data.calendar import Frequency
from recurra.data.table import Columns, Panel, read_table
from recurra.errors import ArgumentError, DataError, ModelFileError
from recurra.tasks.calibration import (
    horizons,
    judge_trust,
    judge_width,
    remainder_quantiles,
    spread,
    usual_trust,
    usual_widening,
)
from recurra.tasks.plan import Plan, choose_plan, with_arguments
from recurra.tasks.preparation import Preparation, Prepared, check_same
from recurra.tasks.results import QUANTILES, Backtest, Forecast
from recurra.tasks.segment_lstm import Example, ForecastNetwork, pinball_loss
from recurra.tasks.threads import few_threads

Log = Callable[[dict[str, Any]], None]
CHUNK = 512
"""Windows that go through the network at once when nothing is learnt."""


class Forecaster:
    """Quantile forecasts of one series or a panel, by a segment LSTM on top of exponential smoothing.

    ``horizon`` steps ahead, all at once. ``season``, ``lookback`` in steps; ``hidden_size``, ``members``,
    ``epochs``, ``batch_size``, ``learning_rate``: chosen from the data where None (`recurra.tasks.plan`).
    ``quantiles`` must hold 0.5. ``seed`` fixes every random number; ``device`` is where the network lives:
    "cpu", "cuda" or "auto".

    Raises ArgumentError for a value that makes no sense.
    """

    def __init__(
        self,
        horizon: int,
        *,
        season: int | None = None,
        lookback: int | None = None,
        hidden_size: int | None = None,
        members: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        quantiles: tuple[float, ...] = QUANTILES,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
            raise ArgumentError(
                f"horizon must be a whole number of steps, at least 1, but {horizon!r} was given"
            )
        if (
            list(quantiles) != sorted(set(quantiles))
            or 0.5 not in quantiles
            or not 0 < quantiles[0] <= quantiles[-1] < 1
        ):
            raise ArgumentError(f"quantiles must rise within 0…1 and hold 0.5, but {quantiles!r} were given")
        for name, value in (("season", season), ("lookback", lookback)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ArgumentError(
                    f"{name} must be a whole number of steps, at least 1, but {value!r} was given"
                )
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ArgumentError(f"seed must be a whole number from 0 to 2**63 - 1, but {seed!r} was given")
        self.horizon, self.season, self.lookback = horizon, season, lookback
        self.numbers = {
            "hidden_size": hidden_size,
            "members": members,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
        }
        self.quantiles, self.seed, self.device = tuple(quantiles), seed, device
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.network: ForecastNetwork | None = None
        # Interval widths as they were after fit, once follow has been called.
        self.fitted: torch.Tensor | None = None

    def fit(
        self, data: Any, *, checkpoints: str | Path | None = None, log: Log | None = None, **columns: Any
    ) -> Forecaster:
        """Learn from a path, a frame or a Panel; ``columns`` go to :func:`recurra.read_table`.

        ``checkpoints``: a folder in which a killed run finds its way back; run again with the same
        arguments, it ends with the same weights. ``log`` is called with a dict after each epoch. Raises
        DataError where the data cannot be used.
        """
        panel = _panel(data, columns)
        self.plan = with_arguments(
            choose_plan(panel, self.horizon, self.season, self.lookback), **self.numbers
        )
        self.names = tuple(series.name for series in panel.series)
        self.lengths = {series.name: len(series.target) for series in panel.series}
        self.columns, self.frequency = panel.columns, panel.frequency
        self.fitted = None
        folder = None if checkpoints is None else Path(checkpoints)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        epochs = self._search(panel, folder, log)
        if self.plan.refit:
            trust, widen = self._network().trust.clone(), self._network().widen.clone()
            self._start(panel)
            windows = self._windows()
            if float(trust) > 0.0 and len(windows):
                self._train("final", windows, epochs=epochs, folder=folder, log=log)
            self._network().trust.copy_(trust)
            self._network().widen.copy_(widen)
        return self

    def check(self, panel: Panel) -> None:
        """Raise what :meth:`fit` and :meth:`predict` would raise on ``panel``, before any time is spent."""
        with_arguments(choose_plan(panel, self.horizon, self.season, self.lookback), **self.numbers)
        longest = max(len(series.target) for series in panel.series)
        if self.season is not None and self.season > 1 and longest < 2 * self.season + 2:
            raise DataError(
                f"the longest series has {longest} steps, but a season of {self.season} needs at least "
                f"{2 * self.season + 2}: give a shorter season, or more history"
            )
        _check_known(panel, self.horizon)

    def _search(self, panel: Panel, folder: Path | None, log: Log | None) -> int:
        """Train on all but the last steps; those tell trust, widths, and how many epochs: returned."""
        held = self.plan.validation
        early = panel.until([max(len(s.target) - held, 1) for s in panel.series])
        self._start(early)
        training = self._windows()
        # The same numbers, unrolled over the whole history: states at an origin see only what lies before it.
        self.prepared = Prepared(panel, self.preparation, self.names, self.frequency)
        lengths = self.prepared.lengths
        validation = self.prepared.origins(lengths - held, lengths - self.horizon)
        if not len(training) or not len(validation):
            # Too short to hold anything back: the smoothing with its empirical intervals stands.
            self._network().trust.zero_()
            return 0
        validation = validation[spread(len(validation), 4 * CHUNK)]
        batches = [
            self.prepared.example(part) for part in np.array_split(validation, -(-len(validation) // CHUNK))
        ]

        def validate() -> float:
            network = self._network()
            losses = []
            for batch in batches:
                b = batch.to(network.start.device)
                forecast = network.start + network.correction(b)
                loss = pinball_loss(forecast, b.target, b.observed, network.quantiles)
                losses.append(loss.item() * int(b.observed.sum()))
            return sum(losses) / max(sum(int(b.observed.sum()) for b in batches), 1)

        judged = None if self.plan.patience is None else validate
        epochs = self._train(
            "search", training, epochs=self.plan.epochs, validate=judged, folder=folder, log=log
        )
        independent = len(self.names) * held / self.horizon
        trust = usual_trust(horizons(self.prepared, held))
        width = usual_widening(horizons(self.prepared, 0) - len(self.names), len(self.quantiles))
        judge_trust(self._network(), batches, held=independent, habit=trust)
        judge_width(self._network(), batches, self.quantiles, held=independent, habit=width)
        return epochs

    def _start(self, panel: Panel) -> None:
        """A fresh network at the smoothing's own forecast, and all that is learnt before training."""
        plan = self.plan
        self.preparation = Preparation.fit(
            panel,
            horizon=self.horizon,
            lookback=plan.lookback,
            seasons=plan.seasons,
            calendar=plan.calendar,
        )
        self.prepared = Prepared(panel, self.preparation, self.names, self.frequency)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = self._build()
        start = remainder_quantiles(self.prepared, self._windows(), self.quantiles)
        self._network().start.copy_(start)

    def _build(self) -> ForecastNetwork:
        plan, preparation = self.plan, self.preparation
        return ForecastNetwork(
            horizon=self.horizon,
            segment=plan.segment,
            hidden_size=plan.hidden_size,
            past_size=preparation.past_size,
            future_size=preparation.future_size,
            static_size=preparation.static_size,
            series_count=len(self.names) + 1,
            quantiles=self.quantiles,
            members=plan.members,
            dropout=plan.dropout,
            learn_spread=plan.learn_spread,
        )

    def _windows(self) -> np.ndarray:
        """Training windows (N, 2): those whose whole horizon has been seen."""
        last = self.prepared.lengths - self.horizon
        return self.prepared.origins(np.zeros_like(last), last)

    def _train(
        self,
        stage: str,
        windows: np.ndarray,
        *,
        epochs: int,
        validate: Callable[[], float] | None = None,
        folder: Path | None = None,
        log: Log | None = None,
        learning_rate: float | None = None,
    ) -> int:
        """Train the network on ``windows`` (N, 2); returns the epochs that its final weights have seen."""
        from recurra import train

        plan, prepared = self.plan, self.prepared

        def batches(generator: torch.Generator) -> Iterator[Example]:
            order = torch.randperm(len(windows), generator=generator)[: plan.steps * plan.batch_size].numpy()
            for part in np.array_split(order, -(-len(order) // plan.batch_size)):
                yield prepared.example(windows[part])

        with few_threads(plan.hidden_size):
            history = train.fit(
                train.quiet_fabric(self.device),
                self._network(),
                batches,
                epochs=epochs,
                learning_rate=learning_rate or plan.learning_rate,
                weight_decay=plan.weight_decay,
                validate=validate,
                schedule=plan.schedule,
                patience=plan.patience if validate is not None else None,
                seed=self.seed,
                save_every=1.0,
                about="" if folder is None else f"data {prepared.panel.digest()}, {plan}",
                checkpoint=None if folder is None else folder / f"{stage}.safetensors",
                log=None if log is None else lambda row: log({"stage": stage, **row}),
            )
        # Wherever it was trained, what follows is quick enough on the CPU.
        self._network().cpu()
        self.history[stage] = [dict(row) for row in history.rows]
        return history.best_epoch if validate is not None else epochs

    def follow(self, panel: Panel, log: Log | None = None) -> None:
        """Take in what has come since :meth:`fit`: how good the forecasts were, then the values themselves.

        ``panel`` is the whole history up to now, of the same series. The intervals' widths are judged again
        by every forecast since the fit that can be judged; then the smoothing constants are chosen anew and
        the network trained for a few epochs from today's weights.
        """
        network = self._network()
        if self.fitted is None:
            self.fitted = network.widen.clone()
        self.prepared = Prepared(panel, self.preparation, self.names, self.frequency)
        first = np.array([self.lengths.get(s.name, len(s.target)) for s in panel.series])
        since = self.prepared.origins(first, self.prepared.lengths - self.horizon)
        if len(since):
            held = float((self.prepared.lengths - first).sum()) / self.horizon
            example = self.prepared.example(since[spread(len(since), 4 * CHUNK)])
            judge_width(network, [example], self.quantiles, held=held, habit=self.fitted)
        self.preparation = self.preparation.with_constants(panel)
        self.prepared = Prepared(panel, self.preparation, self.names, self.frequency)
        windows = self._windows()
        network.start.copy_(remainder_quantiles(self.prepared, windows, self.quantiles))
        if float(network.trust) > 0.0 and len(windows):
            rate = 0.3 * self.plan.learning_rate
            self._train("follow", windows, epochs=2, log=log, learning_rate=rate)

    def widen_like(self, other: Forecaster) -> None:
        """Take over the interval widths of ``other``, which has followed and so been judged for longer."""
        self._network().widen.copy_(other._network().widen)

    def quantiles_at(self, panel: Panel, windows: np.ndarray) -> np.ndarray:
        """Forecasts of ``panel`` from ``windows`` (N, 2), pairs of series and origin: (N, Q, K).

        They are in the user's units. Each uses what lies before its origin, known covariates and the
        calendar excepted.
        """
        network = self._network()
        network.eval()
        alone = self.preparation.looks_ahead(panel, windows)
        if alone.any():
            values = np.empty((len(windows), self.horizon, len(self.quantiles)))
            if not alone.all():
                values[~alone] = self.quantiles_at(panel, windows[~alone])
            for row in np.flatnonzero(alone):
                index, origin = windows[row].tolist()
                cut = dataclasses.replace(panel, series=(panel.series[index].head(origin),))
                values[row] = self.quantiles_at(cut, np.array([(0, origin)]))[0]
            return values
        prepared = Prepared(panel, self.preparation, self.names, self.frequency)
        parts = []
        for part in np.array_split(windows, -(-len(windows) // CHUNK)):
            with torch.no_grad():
                parts.append(network.forecast(prepared.example(part)).numpy().astype(np.float64))
        return prepared.in_units_of_the_user(windows, np.concatenate(parts))

    def predict(self, data: Any, **columns: Any) -> Forecast:
        """Forecast the ``horizon`` steps after the end of every series in ``data`` (path, frame or Panel).

        Raises DataError where a covariate that the model knows ahead has no values there.
        """
        panel = self.panel(data, **columns)
        _check_known(panel, self.horizon)
        windows = np.array([(index, len(series.target)) for index, series in enumerate(panel.series)])
        stamps = [self.frequency.future(series.stamps[-1], self.horizon) for series in panel.series]
        return Forecast(
            series=tuple(series.name for series in panel.series),
            stamps=np.stack(stamps),
            quantiles=self.quantiles,
            values=self.quantiles_at(panel, windows),
        )

    def panel(self, data: Any, **columns: Any) -> Panel:
        """``data`` read the way the training data were: the same columns in the same roles."""
        self._network()
        if isinstance(data, Panel):
            check_same(data, self.columns, self.frequency)
            return data
        roles = {
            "time": self.columns.time,
            "target": list(self.columns.target),
            "series": self.columns.series,
            "past": list(self.columns.past),
            "known": list(self.columns.known),
            "static": list(self.columns.static),
            "categories": self.columns.categories,
            "frequency": self.frequency.alias,
        }
        return read_table(data, **{**roles, **columns})

    def evaluate(self, data: Any, **columns: Any) -> dict[str, float]:
        """Scores of this model, as it is, over rolling origins at the end of ``data``: metric → value.

        The metrics are those of `recurra.tasks.scores`, the origins the default of `recurra.tasks.backtest`.
        Raises ArgumentError before `fit`, DataError where the history is too short for any origin.
        """
        from recurra.tasks.backtest import roll
        from recurra.tasks.scores import scores

        table = scores(roll(self, self.panel(data, **columns), baselines=()))
        return table[next(iter(table))]

    def backtest(
        self,
        data: Any,
        *,
        span: int | None = None,
        stride: int | None = None,
        baselines: Sequence[str] | None = None,
        log: Log | None = None,
        **columns: Any,
    ) -> Backtest:
        """What forecasts with these arguments would have been worth at past origins, beside the baselines'.

        A fresh forecaster with the same arguments is fitted on what lies before the origins in the last
        ``span`` steps, ``stride`` steps apart (`recurra.tasks.backtest`); this one stays as it is.
        ``baselines``: all of them where None. ``columns`` go to :func:`recurra.read_table`. Raises what
        :meth:`fit` raises, and DataError where the history is too short.
        """
        from recurra.tasks.backtest import backtest, choose_origins
        from recurra.tasks.baselines import METHODS

        panel = _panel(data, columns)
        fresh = Forecaster(**self._arguments(), device=self.device)
        origins = choose_origins(panel, self.horizon, span, stride)
        return backtest(fresh, panel, origins, baselines=METHODS if baselines is None else baselines, log=log)

    def _arguments(self) -> dict[str, Any]:
        """What the constructor was given, but for the device."""
        return {
            "horizon": self.horizon,
            "season": self.season,
            "lookback": self.lookback,
            **self.numbers,
            "quantiles": self.quantiles,
            "seed": self.seed,
        }

    def save(self, path: str | Path) -> None:
        """Write the model to one file, ``*.safetensors``: weights, and everything else as a JSON document."""
        weights = dict(self._network().state_dict())
        document = {
            "task": "forecast",
            "arguments": {**self._arguments(), "quantiles": list(self.quantiles)},
            "plan": dataclasses.asdict(self.plan),
            "names": list(self.names),
            "lengths": self.lengths,
            "columns": dataclasses.asdict(self.columns),
            "frequency": self.frequency.alias,
            "preparation": self.preparation.to_json(),
            "history": self.history,
        }
        checkpoint.write(path, weights, document)

    @staticmethod
    def load(path: str | Path) -> Forecaster:
        """Read what :meth:`save` wrote. Raises ModelFileError for any other file."""
        tensors, document = checkpoint.read(path)
        if document.get("task") != "forecast":
            raise ModelFileError(f"{path}: expected a forecast model, found task {document.get('task')!r}")
        try:
            arguments = dict(document["arguments"])
            forecaster = Forecaster(**{**arguments, "quantiles": tuple(arguments["quantiles"])})
            plan = dict(document["plan"])
            forecaster.plan = Plan(**{**plan, "seasons": tuple(plan["seasons"])})
            forecaster.names = tuple(document["names"])
            forecaster.lengths = {str(name): int(length) for name, length in document["lengths"].items()}
            columns = document["columns"]
            lists = {role: tuple(columns[role]) for role in ("target", "past", "known", "static")}
            words = {name: tuple(values) for name, values in columns["categories"].items()}
            forecaster.columns = Columns(
                time=columns["time"], series=columns["series"], categories=words, **lists
            )
            forecaster.frequency = Frequency.parse(document["frequency"])
            forecaster.preparation = Preparation.from_json(document["preparation"])
            forecaster.history = document["history"]
            forecaster.network = forecaster._build()
            forecaster.network.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelFileError(
                f"{path}: the model's description does not fit its weights or this version ({error}): "
                "train it again, or use the version of recurra that wrote it"
            ) from error
        forecaster.network.eval()
        return forecaster

    def _network(self) -> ForecastNetwork:
        if self.network is None:
            raise ArgumentError("this Forecaster has learnt nothing yet: call fit(data) or load(path) first")
        return self.network


def _panel(data: Any, columns: dict[str, Any]) -> Panel:
    return data if isinstance(data, Panel) else read_table(data, **columns)


def _check_known(panel: Panel, horizon: int) -> None:
    """Raise DataError where covariates known in the future are not known over the whole horizon."""
    for series in panel.series:
        ahead = series.known[len(series.target) : len(series.target) + horizon]
        last = ~np.isnan(ahead[horizon - 1 :])
        if not panel.columns.known or (len(last) and last.all()):
            continue
        for name, cells in zip(panel.known_names, ahead.T, strict=True):
            seen = int(np.sum(~np.isnan(cells)))
            if len(ahead) < horizon or not seen:
                raise DataError(
                    f"the covariate {name!r} must be known in the future, but the series {series.name} has "
                    f"it for {seen} of the {horizon} steps after its last value: add rows that hold it and "
                    "an empty target, or name it with --past if it is not known ahead"
                )
