"""What the gates do: one sentence, character by character, through a bidirectional LSTM.

Each character is embedded, and the network learns to say at each one how many letters of its word have been
read and how many are left. The first count needs the forward direction, the second the backward one. Both
must forget at a space, and the heat map shows which units do.

    python gates.py [folder for the plot]
"""

import sys
from pathlib import Path

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import nn

from recurra.nn import LSTM

torch.manual_seed(0)
SENTENCE = "the gates decide what a cell forgets and what it remembers"
E, H, STEPS = 8, 12, 300

alphabet = sorted(set(SENTENCE))
characters = torch.tensor([[alphabet.index(c) for c in SENTENCE]])  # (1, T)
words = SENTENCE.split(" ")
read = [k for word in words for k in (*range(1, len(word) + 1), 0)][:-1]
left = [k for word in words for k in (*range(len(word) - 1, -1, -1), 0)][:-1]
counts = torch.tensor([read, left]).T.float().unsqueeze(0)  # (1, T, 2)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(alphabet), E)
        self.lstm = LSTM(E, H, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * H, 2)

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        output, _ = self.lstm(self.embedding(characters))
        return self.head(output)


model = Counter()
embedded = model.embedding(characters)
print(f"characters {tuple(characters.shape)}  embedded {tuple(embedded.shape)}  counts {tuple(counts.shape)}")
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(1, STEPS + 1):
    loss = nn.functional.mse_loss(model(characters), counts)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 1 or step % 100 == 0:
        print(f"step {step:3d}  loss {loss.item():.4f}")

with torch.no_grad():
    traces = model.lstm.trace(model.embedding(characters))  # forward, backward
space = torch.tensor([c == " " for c in SENTENCE])
titles = ["forward →", "← backward"]
figure = make_subplots(rows=5, cols=2, shared_xaxes=True, vertical_spacing=0.03, column_titles=titles)
for column, (direction, trace) in enumerate(zip(("forward", "backward"), traces, strict=True), start=1):
    forget = trace.gate("forget")[0]  # (T, H)
    at_letters, at_spaces = forget[~space].mean(0), forget[space].mean(0)  # (H)
    unit = int((at_letters - at_spaces).argmax())
    print(f"{direction:8}  gates {tuple(trace.gates.shape)}  cell {tuple(trace.cell.shape)}")
    print(
        f"  unit {unit} keeps {at_letters[unit]:.2f} of its cell at letters, {at_spaces[unit]:.2f} at spaces"
    )
    rows = {name: trace.gate(name)[0] for name in trace.gate_names} | {"tanh(cell)": trace.cell[0].tanh()}
    for row, (name, values) in enumerate(rows.items(), start=1):
        signed = name in ("candidate", "tanh(cell)")  # -1..1; the other gates lie in 0..1
        heat = go.Heatmap(z=values.T.numpy(), zmin=-1 if signed else 0, zmax=1, showscale=False)
        heat.update(colorscale="RdBu" if signed else "Viridis", hovertemplate="unit %{y}: %{z:.2f}")
        figure.add_trace(heat, row=row, col=column)
        figure.update_yaxes(title_text=name if column == 1 else None, row=row, col=column)
figure.update_xaxes(tickvals=list(range(len(SENTENCE))), ticktext=list(SENTENCE), tickangle=0)
figure.update_layout(height=900, title="Every gate of every unit: yellow 1, violet 0; blue 1, red −1")
path = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "gates.html"
figure.write_html(path, include_plotlyjs=True)
print(f"wrote {path}")
