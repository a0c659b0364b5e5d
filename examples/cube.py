"""From a table to the N×T×F cube and back: cities × days × weather features.

An LSTM reads a cube: N sequences (cities) of T steps (days) of F features (what was measured). Here it is
built from a table of one row per city and day, read with batch_first and without, and made a table again.

    python cube.py [folder for the plot]
"""

import sys
from pathlib import Path

import plotly.graph_objects as go
import polars as pl
import torch
from plotly.subplots import make_subplots

from recurra.nn import LSTM

torch.manual_seed(0)
FEATURES = {"temperature": (18, 4), "humidity": (60, 15), "wind": (5, 2)}  # °C, %, m/s: mean and spread
DAYS = {"Bergen": 30, "Cairo": 30, "Lima": 21, "Osaka": 30, "Perth": 14}  # two stations fell silent


def show(name: str, tensor: torch.Tensor, meaning: str) -> None:
    print(f"{name:22} {tuple(tensor.shape)!s:14} {meaning}")


table = pl.concat(
    pl.DataFrame({"city": [city] * days, "day": range(1, days + 1)}).with_columns(
        pl.Series(name, (mean + spread * torch.randn(days)).numpy())
        for name, (mean, spread) in FEATURES.items()
    )
    for city, days in DAYS.items()
)
print(f"the table: {table.height} rows of {', '.join(table.columns)}")

print("\nTo the cube. Shorter rows are filled up with zeros; `lengths` says where each one ends.")
rows = [torch.from_numpy(city.select(FEATURES.keys()).to_numpy()) for city in table.partition_by("city")]
lengths = torch.tensor([len(row) for row in rows])
cube = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
N, T, F = cube.shape
show("cube", cube, f"N×T×F: {N} cities, {T} days, {F} features")
show("lengths", lengths, f"N: days of each city, {lengths.tolist()}")
show("cube[:, :, 0]", cube[:, :, 0], "N×T: the temperature of every city on every day")

print("\nThrough a bidirectional LSTM of L = 2 layers, D = 2 directions, H = 8 hidden units.")
L, D, H = 2, 2, 8
layer = LSTM(F, H, num_layers=L, bidirectional=True, batch_first=True)
output, (h_n, c_n) = layer(cube, lengths=lengths)
show("output", output, "N×T×(D·H): the top layer's hidden state at every step, forward | backward")
show("h_n", h_n, "(L·D)×N×H: each layer's and direction's hidden state at each row's own end")
show("c_n", c_n, "(L·D)×N×H: the cell states there, the memory itself")
print("h_n and c_n keep this order whatever batch_first says: layer 0 →, layer 0 ←, layer 1 →, layer 1 ←.")
last = output[torch.arange(N), lengths - 1]  # N×(D·H)
print(f"output at each last day, forward half  = h_n[-2]: {torch.equal(last[:, :H], h_n[-2])}")
print(f"output at the first day, backward half = h_n[-1]: {torch.equal(output[:, 0, H:], h_n[-1])}")
print(f"output beyond a city's last day is zero:          {not output[4, 14:].any()}")

print("\nThe same without batch_first: time comes first, as torch has it by default.")
time_first = LSTM(F, H, num_layers=L, bidirectional=True)
time_first.load_state_dict(layer.state_dict())
turned, (h_turned, _) = time_first(cube.transpose(0, 1), lengths=lengths)
show("cube.transpose(0, 1)", cube.transpose(0, 1), "T×N×F")
show("output", turned, "T×N×(D·H); h_n and c_n have the shapes they had")
print(f"the same numbers: {torch.allclose(turned.transpose(0, 1), output) and torch.allclose(h_turned, h_n)}")

print("\nAnd back: the steps that count, one under another, are the table's rows.")
counted = torch.arange(T) < lengths.unsqueeze(1)
show("counted", counted, f"N×T: True for the {int(counted.sum())} days that were measured")
back = table.select("city", "day").hstack(pl.DataFrame(cube[counted].numpy(), schema=list(FEATURES)))
print(f"the table again: {back.equals(table)}")

figure = make_subplots(rows=F, cols=1, subplot_titles=[f"{name}, cities × days" for name in FEATURES])
for k in range(F):
    values = cube[:, :, k].masked_fill(~counted, torch.nan).numpy()
    heat = go.Heatmap(z=values, y=list(DAYS), x=list(range(1, T + 1)), showscale=False)
    figure.add_trace(heat, row=k + 1, col=1)
path = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "cube.html"
figure.write_html(path, include_plotlyjs=True)
print(f"wrote {path}")
