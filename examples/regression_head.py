"""A number at every step: stacked LSTM → linear, N×T×F → N×T×1.

Water flows into a tank; at times its valve opens and half of what is in it leaves. A sensor sees the inflow
and the valve, never the level. That depends on all that went before: without memory nobody can tell it.

    python regression_head.py [folder for the plot]
"""

import sys
from pathlib import Path

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import nn

from recurra.nn import LSTM

torch.manual_seed(0)
N, T, F, H = 64, 60, 2, 32
EPOCHS = 150


def tanks(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the sensor saw (N, T, F) and the level (N, T, 1)."""
    inflow = torch.rand(n, T)
    valve = (torch.rand(n, T) < 0.1).float()
    level, levels = torch.zeros(n), []
    for t in range(T):
        level = 0.98 * (level + inflow[:, t]) * (1 - 0.5 * valve[:, t])  # 2 % evaporates
        levels.append(level)
    return torch.stack((inflow, valve), dim=-1), torch.stack(levels, dim=1).unsqueeze(-1) / 10


class LevelMeter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = LSTM(F, H, num_layers=2, batch_first=True)
        self.head = nn.Linear(H, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output, _ = self.lstm(x)  # (N, T, H): the upper layer's hidden state at every step
        return self.head(output)  # (N, T, 1): the same linear map at each of them


x, y = tanks(N)
x_new, y_new = tanks(N)  # other tanks, never trained on
model, mse = LevelMeter(), nn.MSELoss()
print(f"x {tuple(x.shape)}  output {tuple(model.lstm(x)[0].shape)}  prediction {tuple(model(x).shape)}")

optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
losses = []
for epoch in range(1, EPOCHS + 1):
    loss = mse(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
    if epoch == 1 or epoch % 25 == 0:
        print(f"epoch {epoch:3d}  loss {loss.item():.6f}")

with torch.no_grad():
    level = model(x_new)
flat = torch.cat((x, torch.ones(N, T, 1)), dim=-1)
flat_new = torch.cat((x_new, torch.ones(N, T, 1)), dim=-1)
memoryless = flat_new @ torch.linalg.lstsq(flat.view(-1, F + 1), y.view(-1, 1)).solution
print(f"on new tanks: LSTM {mse(level, y_new):.6f}  linear, without memory {mse(memoryless, y_new):.6f}")

figure = make_subplots(rows=1, cols=2, subplot_titles=("Training loss (MSE)", "Level of a new tank"))
figure.add_trace(go.Scatter(y=losses, name="loss", showlegend=False), row=1, col=1)
for name, values in (("level", y_new), ("LSTM", level), ("without memory", memoryless)):
    figure.add_trace(go.Scatter(y=values[0, :, 0].numpy(), name=name), row=1, col=2)
figure.update_yaxes(type="log", row=1, col=1)
figure.update_xaxes(title_text="epoch", row=1, col=1)
figure.update_xaxes(title_text="step", row=1, col=2)
path = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "regression_head.html"
figure.write_html(path, include_plotlyjs=True)
print(f"wrote {path}")
