"""The report holds what it must, loads nothing, and lets nothing in the data become markup."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from recurra.data.calendar import Frequency
from recurra.data.table import Columns, Panel, Series
from recurra.report import style
from recurra.report.forecast import ORIGINS, SERIES, render
from recurra.report.plots import fan, share
from recurra.tasks.baselines import forecast as baseline
from recurra.tasks.results import QUANTILES, Backtest, Forecast
from recurra.tasks.scores import scores, verdict

HOSTILE = "</script><img src=x onerror=alert(1)><b>\"&'{{ 7*7 }}"


class Page(HTMLParser):
    """Elements with their attributes, text by element, and the JSON of the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._within: list[str] = []
        self.payload = ""
        self.feed(text)
        self.figures: dict[str, Any] = json.loads(self.payload)["figures"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within.append("payload" if dict(attrs).get("id") == "figures" else tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._within.pop()

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.text += data
        elif self._within[-1] == "payload":
            self.payload += data


def panel(count: int = 1, length: int = 63, alias: str = "D", season: int = 7, **changed: Any) -> Panel:
    frequency = Frequency.parse(alias)
    start = 0 if alias == "step" else np.datetime64("2021-03-01", "ns")
    rng = np.random.default_rng(count)
    series = []
    for index in range(count):
        target = 50 + 9 * np.sin(2 * np.pi * np.arange(length) / season) + rng.normal(size=length)
        name = changed.get("name", f"series {index}")
        stamps = frequency.range(start, length)
        empty = np.zeros((length, 0))
        series.append(Series(name, stamps, target, empty, empty, np.zeros(0)))
    columns = Columns(time="t", target=("y",))
    return Panel(
        series=tuple(series), frequency=frequency, columns=columns, notes=("The frequency is daily.",)
    )


def forecast(data: Panel, horizon: int = 7, season: int = 7) -> Forecast:
    return Forecast(
        series=data.names,
        stamps=np.stack([data.frequency.future(one.stamps[-1], horizon) for one in data.series]),
        quantiles=QUANTILES,
        values=np.stack([baseline("naive", one.target, horizon, season, QUANTILES) for one in data.series]),
    )


def backtest(data: Panel, horizon: int = 7, origins: int = 9, season: int = 7) -> Backtest:
    rows = [
        (index, origin)
        for index, one in enumerate(data.series)
        for origin in range(len(one.target) - horizon - origins + 1, len(one.target) - horizon + 1)
    ]
    spans = [(data.series[index], slice(origin, origin + horizon)) for index, origin in rows]
    history = [data.series[index].target[:origin] for index, origin in rows]
    return Backtest(
        horizon=horizon,
        season=season,
        quantiles=QUANTILES,
        names=data.names,
        series=np.array([index for index, _ in rows]),
        origin=np.array([origin for _, origin in rows]),
        stamps=np.stack([one.stamps[span] for one, span in spans]),
        actual=np.stack([one.target[span] for one, span in spans]),
        scale=np.array([np.nanmean(np.abs(past[season:] - past[:-season])) for past in history]),
        forecasts={
            name: np.stack([baseline(method, past, horizon, season, QUANTILES) for past in history])
            for name, method in (("LSTM", "naive"), ("seasonal naive", "seasonal naive"), ("drift", "drift"))
        },
        seconds={"LSTM": 12.5, "seasonal naive": 0.1, "drift": 0.1},
    )


EPOCHS = [{"epoch": n, "train_loss": 1 / n, "valid_loss": 1.2 / n} for n in range(1, 8)]


def page(data: Panel, test: Backtest | None = None, **changed: Any) -> str:
    table = scores(test) if test else None
    given: dict[str, Any] = {
        "title": "Forecast of y",
        "panel": data,
        "forecast": changed.pop("forecast", None) or forecast(data),
        "backtest": test,
        "scores": table,
        "history": EPOCHS,
        "settings": {"lookback": "24 steps"},
        "notes": data.notes,
        "verdict": verdict(table) if table else "No backtest was run.",
        "command": "recurra forecast data.csv --horizon 7",
    }
    return render(**(given | changed))


def test_loads_nothing_and_forbids_loading() -> None:
    found = Page(page(panel(), backtest(panel())))
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert "src" not in attributes
        assert "srcset" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    policy = [a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a]
    assert policy
    assert "default-src 'none'" in (policy[0] or "")


def test_plotly_is_there_once() -> None:
    text = page(panel(), backtest(panel()))
    scripts = [attributes for tag, attributes in Page(text).tags if tag == "script"]
    assert len(scripts) == 3
    assert text.count("plotly.js v") == 1


def test_verdict_comes_first_and_scores_are_all_there() -> None:
    test = backtest(panel())
    table = scores(test)
    text = Page(page(panel(), test)).text.replace("\u00a0", " ")
    assert "Loses to a baseline" in text
    assert text.index(verdict(table)) < text.index("best baseline") < text.index("Error by horizon")
    assert verdict(table).startswith("LSTM loses to seasonal naive")
    for method, row in table.items():
        assert method in text
        assert f"{row['MASE']:.3f}" in text
        assert f"{100 * row['coverage_80']:.0f} %" in text
    assert "12.5 s" in text
    assert "recurra forecast data.csv --horizon 7" in text
    assert "The frequency is daily." in text
    assert "24 steps" in text


def test_the_best_of_each_column_is_marked() -> None:
    test = backtest(panel())
    table = scores(test)
    text = page(panel(), test)
    best = min(row["MASE"] for row in table.values())
    assert f'<span class="best">{best:.3f}' in text


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ((0.5, 1.0), "Beats every baseline"),
        ((1.0, 1.0), "Level with the best"),
        ((2.0, 1.0), "Loses to a base"),
    ],
)
def test_the_tag_follows_the_scores(errors: tuple[float, float], words: str) -> None:
    test = backtest(panel())
    test = replace(test, forecasts={name: test.forecasts[name] for name in ("LSTM", "drift")})
    table = scores(test)
    for row, error in zip(table.values(), errors, strict=True):
        row["MASE"] = error
    assert words in Page(page(panel(), test, scores=table)).text


def test_nothing_in_the_data_becomes_markup() -> None:
    data = panel(2)
    data = replace(
        data,
        series=tuple(replace(one, name=f"{HOSTILE}{n}") for n, one in enumerate(data.series)),
        columns=Columns(time="t", target=(HOSTILE,)),
    )
    test = backtest(data)
    text = page(
        data,
        test,
        title=HOSTILE,
        settings={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        command=HOSTILE,
        verdict=HOSTILE,
        history={HOSTILE: EPOCHS, "other": EPOCHS},
    )
    found = Page(text)
    assert not [tag for tag, _ in found.tags if tag in ("img", "b")]
    assert "onerror" not in {key for _, attributes in found.tags for key in attributes}
    assert found.text.count(HOSTILE) >= 6
    assert "49" not in found.text.split("Do it again")[1].split("model file")[0]
    title = found.figures["fan"][0]["layout"]["yaxis"]["title"]["text"]
    assert "<" not in title


@pytest.mark.parametrize("count", [1, 7, 63])
def test_panels_draw_at_most_so_many_series_and_say_so(count: int) -> None:
    data = panel(count)
    text = page(data, backtest(data, origins=3))
    found = Page(text)
    drawn = min(count, SERIES)
    assert len(found.figures["fan"]) == len(found.figures["origins"]) == drawn
    pickers = [attributes for tag, attributes in found.tags if tag == "select"]
    assert len(pickers) == (2 if count > 1 else 0)
    assert len([tag for tag, _ in found.tags if tag == "option"]) == (2 * drawn if count > 1 else 0)
    assert (f"The first {SERIES} of {count} series are drawn" in found.text) == (count > SERIES)


def test_large_panels_and_long_horizons_stay_small() -> None:
    data = panel(SERIES + 9, length=2121)
    text = page(data, backtest(data, horizon=63, origins=7), forecast=forecast(data, horizon=333))
    assert len(text) < 10_000_000
    assert "are drawn in full" in Page(text).text


def test_missing_values_are_gaps_and_are_counted() -> None:
    data = panel()
    data.series[0].target[[3, 4, 60]] = np.nan
    found = Page(page(data, backtest(data)))
    observed = next(t for t in found.figures["fan"][0]["data"] if t["name"] == "observed")
    assert [at for at, value in enumerate(observed["y"]) if value is None] == [3, 4, 60]
    assert "3 missing" in found.text
    assert "steps had no observed value" in found.text


def test_a_missing_last_value_does_not_anchor_the_fan() -> None:
    data = panel()
    joined = fan(data, forecast(data), 0, 99)["frames"][0]
    assert joined["median"][0] == pytest.approx(data.series[0].target[-1], rel=1e-5)
    assert len(joined["x"]) == 8
    data.series[0].target[-1] = np.nan
    assert len(fan(data, forecast(data), 0, 99)["frames"][0]["x"]) == 7


def test_a_constant_series() -> None:
    data = panel()
    data.series[0].target[:] = 7.0
    test = backtest(data)
    text = page(data, test)
    found = Page(text)
    assert '<th scope="col">MASE</th>' not in text
    assert '<th scope="col">MAE</th>' in text
    assert "level with the best baseline" in found.text
    assert "steps of flat histories are left out of MASE" in found.text


def test_nothing_observed_in_the_backtest() -> None:
    data = panel()
    test = backtest(data)
    test = replace(test, actual=np.full_like(test.actual, np.nan))
    found = Page(page(data, test))
    assert "No verdict" in found.text
    assert "residuals" not in found.figures


def test_without_a_backtest() -> None:
    found = Page(page(panel(), history=[]))
    assert set(found.figures) == {"fan"}
    assert "Not tested" in found.text
    assert "No backtest was run" in found.text
    ids = {attributes.get("id") for _, attributes in found.tags}
    links = {a["href"] for tag, a in found.tags if tag == "a"}
    assert {f"#{name}" for name in ids} >= links


def test_every_link_plot_and_label_has_its_place() -> None:
    data = panel(7)
    found = Page(page(data, backtest(data), history={"seed 0": EPOCHS, "seed 1": EPOCHS}))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {f"plot-{name}" for name in found.figures} <= set(ids)
    for tag, attributes in found.tags:
        if tag == "a":
            assert (attributes["href"] or "")[1:] in ids
        if tag == "label":
            assert attributes["for"] in ids
        if (attributes.get("class") or "").startswith("plot"):
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    heads = [attributes.get("scope") for tag, attributes in found.tags if tag == "th"]
    assert heads
    assert set(heads) == {"col", "row"}
    assert dict(found.tags)["html"]["lang"] == "en"


@pytest.mark.parametrize("alias", ["D", "MS", "h", "step", "YS"])
@pytest.mark.parametrize("horizon", [1, 33])
def test_any_frequency_and_horizon(alias: str, horizon: int) -> None:
    data = panel(1, length=121, alias=alias)
    found = Page(page(data, backtest(data, horizon=horizon), forecast=forecast(data, horizon=horizon)))
    figure = found.figures["fan"][0]
    assert figure["layout"]["xaxis"]["type"] == ("linear" if alias == "step" else "date")
    assert len(figure["frames"][0]["x"]) == horizon + 1
    assert len(found.figures["origins"][0]["frames"]) == 9
    assert len(found.figures["horizon"]["data"][0]["y"]) == horizon


def test_many_origins_are_thinned_evenly() -> None:
    data = panel(length=333)
    found = Page(page(data, backtest(data, origins=ORIGINS + 63)))
    frames = found.figures["origins"][0]["frames"]
    assert len(frames) == ORIGINS
    ends = [str(data.series[0].stamps[at])[:10] for at in (333 - 7 - ORIGINS - 62, 333 - 7)]
    assert [frames[0]["words"], frames[-1]["words"]] == ends
    assert "evenly spaced origins" in found.text


def test_a_series_outside_the_backtest_is_said_to_be() -> None:
    data = panel(3)
    test = backtest(data)
    inside = test.series != 1
    test = replace(
        test,
        **{name: getattr(test, name)[inside] for name in ("series", "origin", "stamps", "actual", "scale")},
        forecasts={name: values[inside] for name, values in test.forecasts.items()},
    )
    found = Page(page(data, test))
    assert [figure is None for figure in found.figures["origins"]] == [False, True, False]
    assert "This series has no origin in the backtest." in found.text


def test_every_colour_has_a_dark_counterpart() -> None:
    data = panel()
    text = Page(page(data, backtest(data))).payload
    document = json.loads(text)
    used: set[str] = set()

    def walk(value: Any, key: str = "") -> None:
        if isinstance(value, dict):
            for name, one in value.items():
                walk(one, name)
        elif isinstance(value, list):
            for one in value:
                walk(one, key)
        elif isinstance(value, str) and "color" in key:
            used.add(value)

    walk(document["figures"])
    assert used - {"rgba(0,0,0,0)"} <= set(document["dark"])


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("shade", [0, 1])
@pytest.mark.parametrize("role", ["ink", "quiet", "model", "first", "second", "third", "fourth", "fifth"])
def test_contrast(role: str, shade: int) -> None:
    one, other = sorted(luminance(style.PALETTE[name][shade]) for name in (role, "paper"))
    assert (other + 0.05) / (one + 0.05) >= (4.5 if role in ("ink", "quiet", "model") else 3)


@pytest.mark.parametrize("length", [1, 63, 999, 10_000])
def test_thinning_keeps_the_end_and_the_extremes(length: int) -> None:
    values = np.random.default_rng(length).normal(size=length)
    values[length // 3] = 99.0
    kept = style.thinned(values, 600)
    assert len(kept) <= 600
    assert 99.0 in values[kept]
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(kept[-min(300, length) :], np.arange(max(length - 300, 0), length))


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (1234567, "1,235,000"), (-0.012345, "−0.01235"), (12.3456, "12.35"), (float("nan"), "–")],
)
def test_amounts(value: float, words: str) -> None:
    assert style.amount(value) == words


def test_more_series_get_less_room_each() -> None:
    assert share(1) > share(20) > share(50)
