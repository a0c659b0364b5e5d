"""Figures of the lens: they hold the numbers of the results, under the labels that the user gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from recurra import lens, nn
from recurra.errors import ArgumentError
from recurra.lens.figures_style import label

N, T, F, H = 3, 9, 2, 7
LENGTHS = [9, 5, 1]
DAYS = np.datetime64("2026-01-30") + np.arange(T)
LAGS = [1, 2, 5]


@pytest.fixture
def layer() -> Any:
    return nn.LSTM(F, H, num_layers=2, bidirectional=True, batch_first=True)


@pytest.fixture
def traced(layer: Any) -> Any:
    return lens.trace(layer, torch.randn(N, T, F), lengths=LENGTHS, time=DAYS, samples=["a", "b", "c"])


def rnn() -> Any:
    return nn.RNN(F, H, batch_first=True)


def x() -> torch.Tensor:
    return torch.randn(N, T, F)


class Tagger(torch.nn.Module):
    """Tags (N, T, 4), or of the last step alone (N, 4)."""

    def __init__(self, last: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        self.last = last
        self.embedding = torch.nn.Embedding(33, F)
        self.encoder = torch.nn.GRU(F, H, batch_first=batch_first)
        self.head = torch.nn.Linear(H, 4)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        tags = self.head(self.encoder(self.embedding(words))[0])
        return tags[:, -1] if self.last else tags


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), rtol=1e-6)


def names(figure: go.Figure) -> list[str]:
    return [each.name for each in figure.data if each.showlegend is not False]


def facts(figure: go.Figure) -> str:
    return figure.layout.title.subtitle.text


def test_a_trace_is_a_heat_map_of_each_gate_and_state_over_one_time(traced: Any) -> None:
    figure = lens.plot_trace(traced, sample="b", layer=1, direction="reverse")
    shown = ["input", "forget", "candidate", "output", "cell", "hidden"]
    assert [heat.name for heat in figure.data] == shown
    for heat in figure.data:
        wanted = traced[heat.name].sel(layer=1, direction="reverse", sample="b").values[:5]  # its length
        same(heat.z, wanted.T)
    assert list(figure.layout.xaxis.ticktext) == [str(day) for day in DAYS[:5]]
    assert (np.asarray(lens.plot(traced).data[0].x, "datetime64[D]") == DAYS).all()
    assert {figure.layout[f"xaxis{n}"].matches for n in range(1, 6) if n > 1} == {"x6"}
    assert facts(figure) == "layer 1 · reverse · sample b"
    assert figure.layout.yaxis.autorange == "reversed"
    for n, name in enumerate(shown, start=1):
        scale = figure.layout[f"coloraxis{'' if n == 1 else n}"]
        if name in ("input", "forget", "output"):
            assert (scale.cmin, scale.cmax) == (0, 1)
        else:  # the same for each sample, so that they can be compared
            most = np.nanmax(np.abs(traced[name].sel(layer=1, direction="reverse").values))
            assert scale.cmax == -scale.cmin
            assert most <= scale.cmax <= 1.1 * most


def test_variables_and_units_in_the_order_in_which_they_are_named(traced: Any) -> None:
    figure = lens.plot_trace(traced, ["cell", "forget"], units=[5, 0], title="mine")
    assert [heat.name for heat in figure.data] == ["cell", "forget"]
    same(figure.data[0].z, traced["cell"].values[0, 0, 0][:, [5, 0]].T)
    assert list(figure.layout.yaxis.ticktext) == ["5", "0"]
    assert list(figure.data[0].y) == ["5", "0"], "what hovering shows"
    assert figure.layout.title.text == "mine"
    assert len(lens.plot_trace(traced, "hidden").data) == 1


def test_words_stand_one_by_one_though_they_are_the_same() -> None:
    text = "a <b> a b"
    traced = lens.trace(nn.GRU(F, H, batch_first=True), torch.randn(1, len(text), F), time=text)
    figure = lens.plot(traced)
    axis = figure.layout.xaxis
    assert axis.type == "category"
    assert list(axis.ticktext) == ["a", "␣", "&lt;", "b", "&gt;", "␣", "a", "␣", "b"]
    assert axis.tickangle == 0, "single letters stand upright"
    assert len(set(figure.data[0].x)) == len(text)
    assert figure.data[0].x[4] == "&gt; (4)"


def test_each_sample_has_its_own_words() -> None:
    texts = [["to", "be", "or", "not"], ["no"]]
    traced = lens.trace(rnn(), torch.randn(2, 4, F), lengths=[4, 1], time=texts)
    assert list(lens.plot(traced, sample=0).layout.xaxis.ticktext) == texts[0]
    assert list(lens.plot(traced, sample=1).layout.xaxis.ticktext) == ["no"]


def test_stamps_that_lie_before_the_series_make_a_row_of_labels() -> None:
    stamps = DAYS.copy()
    stamps[0] = np.datetime64("NaT")
    figure = lens.plot(lens.trace(rnn(), x(), time=stamps))
    assert figure.layout.xaxis.type == "category"
    assert figure.layout.xaxis.ticktext[:2] == ("–", "2026-01-31")


def test_a_few_stamps_are_written_out() -> None:
    hours = np.datetime64("2026-01-30T18:00") + np.arange(T) * np.timedelta64(6, "h")
    traced = lens.trace(rnn(), x(), time=hours)
    assert lens.plot(traced).layout.xaxis.type == "date"
    few = lens.plot(traced.isel(time=slice(0, 2))).layout.xaxis
    assert few.ticktext == ("2026-01-30 18:00:00", "2026-01-31")
    assert few.tickangle == 0


def test_what_was_already_chosen_stays_chosen(traced: Any) -> None:
    figure = lens.plot(traced.sel(layer=1, direction="reverse").isel(sample=1))
    same(figure.data[0].z, traced["input"].values[1, 1, 1, :5].T)
    assert facts(figure) == "layer 1 · reverse · sample b"
    figure = lens.plot_unit(traced.sel(layer=[1]), 3)
    same(figure.data[0].y, traced["input"].values[1, 0, 0, :, 3])
    assert lens.plot(traced.isel(time=slice(0, 4))).data[0].z.shape == (H, 4)


def test_projected_states_unequal_layers_and_gates_above_one_are_drawn() -> None:
    traced = lens.trace(nn.LSTM(F, H, proj_size=3, batch_first=True), x())
    figure = lens.plot(traced)
    assert figure.data[-1].z.shape == (3, T)
    assert figure.layout.yaxis6.title.text == "projection"
    assert names(lens.plot_unit(traced, 6)) == ["input", "forget", "output", "candidate", "cell"]
    stacked = lens.trace(nn.Stacked(F, (H, 1), batch_first=True), x())
    assert np.isnan(lens.plot(stacked, layer=1).data[0].z[1:]).all()
    assert names(lens.plot_unit(stacked, 6, layer=1))[0] == "input"
    above = lens.trace(nn.SLSTM(F, H, batch_first=True), x())
    above["forget"] = above["forget"] * 0 + 5
    assert lens.plot_trace(above, "forget").layout.coloraxis.cmax == 5
    empty = lens.trace(rnn(), x(), lengths=[T, 0, 1])
    assert lens.plot(empty, sample=1).data[0].z.shape == (H, 0)
    assert len(lens.plot_unit(empty, 0, sample=1).data[0].y) == 0


def test_one_unit_has_its_gates_above_and_its_states_beneath(traced: Any) -> None:
    figure = lens.plot_unit(traced, 6, sample=1, layer=1)
    places = {"y": ["input", "forget", "output"], "y2": ["candidate", "cell", "hidden"]}
    for axis, wanted in places.items():
        assert [line.name for line in figure.data if line.yaxis == axis] == wanted
    for line in figure.data:
        same(line.y, traced[line.name].values[1, 0, 1, :5, 6])
    assert figure.layout.yaxis.range == (-0.03, 1.03)
    assert figure.layout.xaxis.matches == "x2"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"variables": "rest"}, r"variables: expected some of 'input', .*'hidden', got 'rest'"),
        ({"variables": []}, r"variables: expected some of .*got \[\]"),
        ({"variables": "length"}, "variables: .*got 'length'"),
        ({"sample": 3}, "sample: expected 0 to 2, got 3"),
        ({"sample": -1}, "sample: expected 0 to 2, got -1"),
        ({"sample": True}, "sample: expected one of 'a', 'b', 'c', got True"),
        ({"sample": "d"}, "sample: expected one of 'a', 'b', 'c', got 'd'; name one that there is"),
        ({"layer": 2}, "layer: expected one of 0, 1, got 2"),
        ({"direction": "back"}, "direction: expected one of 'forward', 'reverse', got 'back'"),
        ({"units": [0, H]}, "units: expected numbers from 0 to 6, got 7"),
        ({"units": []}, "units: expected numbers from 0 to 6, got none"),
    ],
)
def test_what_a_trace_has_not(traced: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        lens.plot_trace(traced, **options)


def test_a_unit_that_there_is_not(traced: Any) -> None:
    for unit in (H, -1, True):
        with pytest.raises(ArgumentError, match=f"unit: expected one of 0 to 6, got {unit}"):
            lens.plot_unit(traced, unit)


def test_time_constants_are_a_curve_of_units_for_each_layer_and_direction(traced: Any) -> None:
    found = lens.time_constants(traced)
    values = found["time_constant"].values
    values[0, 0, :2] = np.inf
    values[0, 0, 2] = 0
    figure = lens.plot(found)
    assert names(figure) == ["layer 0 forward (2 of 7 ∞, 1 of 7 0)", "layer 0 reverse", *names(figure)[2:]]
    line = figure.data[0]
    same(line.x, np.sort(values[0, 0])[1:5])
    same(line.y, np.arange(2, 6) / H)
    assert [values[0, 0, unit] for unit in line.customdata] == list(line.x), "hovering names the unit"
    same(figure.data[3].x, np.sort(values[1, 1]))
    assert figure.layout.xaxis.type == "log"
    figure = lens.plot_time_constants(found, "geometric_time_constant")
    same(figure.data[3].x, np.sort(found["geometric_time_constant"].values[1, 1]))
    with pytest.raises(ArgumentError, match=r"variable: expected 'time_constant' or .*got 'kept'"):
        lens.plot_time_constants(found, "kept")


def test_before_and_after_training_lie_in_one_figure(traced: Any) -> None:
    usual = lens.time_constants(traced)
    later = usual * 2
    figure = lens.plot(lens.compare(usual, later))
    assert [line.line.dash for line in figure.data] == ["dot"] * 4 + ["solid"] * 4
    same(figure.data[5].x, np.sort(later["time_constant"].values[0, 1]))
    assert names(figure)[5] == "layer 0 reverse after"


@pytest.mark.parametrize("variable", [None, "cell", "hidden"])
def test_half_lives_and_how_they_come_about(layer: Any, variable: str | None) -> None:
    found = lens.half_life(layer, x())
    figure = lens.plot_half_life(found, variable)
    name = variable or "cell"
    halves = found[f"{name}_half_life"].values[1, 0]
    same(figure.data[2].x, np.sort(halves[np.isfinite(halves)]))
    fades = [line for line in figure.data if line.yaxis == "y2" and line.fill is None]
    same(fades[3].y, np.median(found[f"{name}_fade"].values[1, 1], axis=-1))
    same(fades[3].x, found["lag"])
    both = lens.plot(lens.compare(found, found))
    assert sum(line.fill is not None for line in both.data) == 4, "a band for after alone"


def test_a_half_life_without_a_cell_state() -> None:
    found = lens.half_life(rnn(), x())
    assert lens.plot(found).layout.annotations[0].text == "half-life of the hidden state"
    with pytest.raises(ArgumentError, match="variable: expected 'hidden', got 'cell'"):
        lens.plot_half_life(found, "cell")


def test_saturation_has_a_panel_for_each_gate(traced: Any) -> None:
    found = lens.saturation(traced, low=0.45, high=0.55)
    found["dead"].values[0, 1, 3] = True
    figure = lens.plot(found)
    assert [note.text for note in figure.layout.annotations] == ["input", "forget", "output"]
    points = figure.data[4 + 1]  # the second gate, layer 0 reverse
    same(points.x, found["forget"].values[0, 1, :, 0])
    same(points.y, found["forget"].values[0, 1, :, 1])
    assert [place for place, mark in enumerate(points.marker.symbol) if mark == "x-thin-open"] == [3]
    assert "1 dead unit" in facts(figure)
    assert figure.layout.xaxis.title.text == "shut (below 0.45)"
    assert len(names(figure)) == 4, "one legend for all panels"
    both = lens.plot(lens.compare(found, found))
    assert both.data[0].marker.symbol[0] == "circle-open"
    assert both.data[4].marker.symbol[0] == "circle"
    assert "1 dead unit ·" in facts(both)


def test_saturation_of_a_layer_without_gates_is_how_far_units_move() -> None:
    found = lens.saturation(lens.trace(rnn(), x()))
    same(lens.plot(found).data[0].x, np.sort(found["hidden_range"].values[0, 0]))


def test_the_effective_context() -> None:
    found = lens.effective_context(nn.LSTM(F, H, batch_first=True), x())
    figure = lens.plot(found)
    same(figure.data[0].y, found["relative"])
    same(figure.data[0].x, found["lag"])
    assert f"looks back {float(found['effective_context']):g} steps" in facts(figure)
    found["effective_context"] = np.nan
    assert facts(lens.plot(found)) == "the input moves nothing"
    found["effective_context"] = float(T - 1)
    assert "longer lags were not measured" in facts(lens.plot(found))
    with pytest.raises(ArgumentError, match="has lost its attribute 'share'; keep it with"):
        lens.plot(found.drop_attrs())


def test_gradients_by_step_with_their_verdicts(layer: Any) -> None:
    flow = lens.gradient_flow(layer, x(), lengths=LENGTHS, time=DAYS)
    figure = lens.plot(flow)
    data = flow.states[""]
    assert [line.yaxis for line in figure.data] == ["y"] * 4 + ["y2"] * 4
    wanted = np.where(data["cell_mean"] > 0, data["cell_mean"], np.nan)
    same(figure.data[1].y, wanted[0, 1])
    assert (np.asarray(figure.data[1].x, "datetime64[D]") == DAYS).all()
    assert names(figure)[3] == f"layer 1 reverse: {flow.verdicts[3].word}"
    assert figure.layout.yaxis.type == figure.layout.yaxis2.type == "log"
    one = lens.plot_gradient_flow(flow, sample=1)
    same(one.data[6].y, data["hidden"].values[1, 0, 1, :5])
    with pytest.raises(ArgumentError, match="module: expected one of '', got 'encoder'"):
        lens.plot_gradient_flow(flow, module="encoder")
    with pytest.raises(ArgumentError, match="sample: expected 0 to 2, got 3"):
        lens.plot_gradient_flow(flow, sample=3)


def test_gradients_of_rows_with_their_own_words() -> None:
    texts = [["to", "be", "or", "not"], ["no", "more"]]
    flow = lens.gradient_flow(rnn(), torch.randn(2, 4, F), lengths=[4, 2], time=texts)
    assert list(lens.plot(flow, sample=1).layout.xaxis.ticktext) == texts[1]
    same(lens.plot(flow).data[0].x, range(4))


def test_networks_side_by_side() -> None:
    found = lens.side_by_side(x(), H)
    figure = lens.plot(found)
    assert [name.split(":")[0] for name in names(figure)] == ["LSTM", "GRU", "RNN"]
    assert names(figure)[2].startswith(f"RNN: {found['verdict'].values[2]}, × ")
    same(figure.data[1].y, found["flow"].sel(network="GRU").mean("sample"))
    same(lens.plot(found, sample=2).data[0].y, found["flow"].values[0, 2])


def test_singular_values_against_the_lag() -> None:
    found = lens.spectra(nn.LSTM(F, H, batch_first=True), x(), lags=LAGS)
    for block in ("hidden", "cell", "state"):
        figure = lens.plot(found, block=block, sample=2)
        lines = {line.name: line for line in figure.data}
        for name in ("largest", "smallest", "geometric_mean"):
            line = lines[name.replace("_", " ")]
            same(line.x, LAGS)
            same(line.y, found[name].sel(block=block).values[2])
        if block != "state":
            same(lines["singular values"].y, found[block].values[2].ravel())
            same(lines["singular values"].x, np.repeat(LAGS, H))
    with pytest.raises(ArgumentError, match="block: expected one of 'hidden', 'cell', 'state', got 'gate'"):
        lens.plot_spectra(found, "gate")


def test_attributions_of_features_are_a_heat_map_under_the_sums() -> None:
    features = ["load", "<i>"]
    found = lens.integrated_gradients(
        rnn(), x(), target=lambda out: out[0][:, -1, 0], features=features, time=DAYS
    )
    figure = lens.plot(found, sample=1)
    same(figure.data[0].y, found["attribution"].values[1].sum(-1))
    same(figure.data[1].z, found["attribution"].values[1].T)
    assert list(figure.layout.yaxis2.ticktext) == ["load", "&lt;i&gt;"]
    assert list(lens.plot(found.assign_coords(feature=["a", "a"])).data[1].y) == ["a (0)", "a (1)"]
    assert figure.layout.coloraxis2.cmax == -figure.layout.coloraxis2.cmin > 0
    assert "integrated gradients · sample 1 · answer" in facts(figure)
    assert lens.plot(found.isel(sample=1)).data[1].z.shape == (F, T)
    with pytest.raises(ArgumentError, match="sample: expected 0 to 2, got 7"):
        lens.plot_attribution(found, sample=7)


def test_words_are_a_text_each_on_its_colour() -> None:
    model, tokens = Tagger(last=True), torch.randint(33, (2, 33))
    texts = [[f"word{place}" for place in range(33)], ["so"] * 7]
    found = lens.occlusion(model, tokens, target=2, time=texts)
    figure = lens.plot(found, sample=0)
    words = figure.data[0]
    assert list(words.text) == texts[0]
    same(words.marker.color, found["attribution"].values[0])
    ends = np.asarray(words.x) + np.asarray(words.width) / 2
    assert ends.max() <= 97
    assert len(set(words.base)) > 1, "a text has lines"
    for line in set(words.base):
        at = np.asarray(words.x)[np.asarray(words.base) == line]
        assert (np.diff(at) > 0).all()
    assert list(lens.plot(found, sample=1).data[0].text) == ["so"] * 7, "its own words alone"
    numbers = lens.plot(lens.occlusion(model, tokens, target=2), sample=1)
    assert numbers.layout.xaxis.type == "linear"
    assert len(numbers.data[0].y) == 33


@pytest.mark.parametrize("batch_first", [True, False])
def test_what_if_draws_before_and_after_over_time(batch_first: bool) -> None:
    model = Tagger(batch_first=batch_first)
    tokens = torch.randint(33, (N, T) if batch_first else (T, N))
    effect = lens.what_if(model, tokens, edits=[lens.Edit("hidden", to=0.0, steps=3)], time=DAYS)
    figure = lens.plot(effect, sample=2, outputs=[3, 1])
    turned = [tags if batch_first else tags.transpose(0, 1) for tags in (effect.before, effect.after)]
    same(figure.data[0].y, turned[0][2, :, 3])
    same(figure.data[3].y, turned[1][2, :, 1])
    assert [line.line.dash for line in figure.data] == ["dot", "solid"] * 2
    usual = lens.trace(model, tokens)
    figure = lens.plot(effect, traced=usual, sample=1)
    change = effect.states["encoder"]["hidden"].values - usual["hidden"].values
    np.testing.assert_allclose(figure.data[-1].z, change[0, 0, 1].T, atol=1e-7)
    assert (np.asarray(figure.data[-1].x, "datetime64[D]") == DAYS).all()
    wrong = {"outputs": [4]}, {"outputs": []}, {"module": "lstm"}, {"time_axis": 2}, {"sample": N}
    for options in wrong:
        with pytest.raises(ArgumentError, match=f"{next(iter(options))}: expected"):
            lens.plot(effect, **options)
    with pytest.raises(ArgumentError, match="effect: expected a model that returns"):
        lens.plot(effect, time_axis=0 if batch_first else 1)
    with pytest.raises(ArgumentError, match=r"variables: expected some of .*got 'cell'"):
        lens.plot(effect, traced=usual, variable="cell")
    with pytest.raises(ArgumentError, match="traced: expected a trace of what was edited"):
        lens.plot(effect, traced=lens.trace(model, tokens[:2]))


def test_what_if_of_other_outputs() -> None:
    model, tokens = Tagger(last=True), torch.randint(33, (N, T))
    effect = lens.what_if(model, tokens, edits=[lens.Edit("update", to=1.0)])
    figure = lens.plot(effect, sample=1)
    same(figure.data[0].y, effect.before[1])
    same(figure.data[1].y, effect.after[1])
    assert names(figure) == ["before", "after"]
    packed = pack_padded_sequence(x(), torch.tensor(LENGTHS), batch_first=True)
    layer = nn.LSTM(F, 33, batch_first=True)
    effect = lens.what_if(layer, packed, edits=[lens.Edit("output", scale=0.5, units=[4])])
    figure = lens.plot(effect, sample=1)
    assert len(figure.data) == 2 * 6, "of many outputs the six that change most"
    assert any(line.name == "4" and len(line.y) == 5 for line in figure.data)
    nothing = lens.what_if(layer, x(), edits=[lens.Edit("output", scale=0.5)])
    for output in ((), {"tags": torch.zeros(N)}, torch.zeros(N + 1)):
        object.__setattr__(nothing, "before", output)
        object.__setattr__(nothing, "after", output)
        with pytest.raises(ArgumentError, match="effect: expected a model that returns"):
            lens.plot(nothing)


def test_plot_says_what_it_knows(traced: Any) -> None:
    flow = lens.gradient_flow(rnn(), x())
    wrong = [7, traced["forget"], traced.drop_vars("length"), {"encoder": traced}, flow.states[""]]
    for result in wrong:
        with pytest.raises(ArgumentError, match=r"result: expected what a function of recurra\.lens returns"):
            lens.plot(result)
    with pytest.raises(ArgumentError, match=r"a dict of 'encoder'; give one of its values"):
        lens.plot({"encoder": traced})


DRAWERS = [name for name in lens.__all__ if name.startswith("plot_")]


@pytest.mark.parametrize("name", DRAWERS)
def test_each_drawer_refuses_the_result_of_another(name: str, traced: Any) -> None:
    wrong = lens.time_constants(traced) if name != "plot_time_constants" else traced
    with pytest.raises(
        ArgumentError, match=r"result: expected what recurra\.lens\.\w+.* returns?, got a Dat"
    ):
        getattr(lens, name)(wrong, *([0] if name == "plot_unit" else []))


def test_labels_are_no_markup() -> None:
    assert label("$x$") == "&#36;x&#36;"
    assert label("<b>&") == "&lt;b&gt;&amp;"
    assert label(" ") == "␣"
    assert label("\n") == "↵"
    assert label("") == ""
    assert len(label("x" * 99)) == 40
