"""The sine wave of every LSTM tutorial: read 20 points, predict the next.

A noisy sine of 1,000 points is cut into windows of 20; its last 200 points are held out. Beside the LSTM
stands the naive forecast, that the next value equals the last one seen: the least that it has to beat.

    python sine.py [folder for the plot]
"""

import sys
from pathlib import Path

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import nn

from recurra.nn import LSTM

torch.manual_seed(0)
torch.set_num_threads(1)  # for a network this small, handing out the work takes longer than doing it
POINTS, T, H, NOISE = 1000, 20, 64, 0.1
EPOCHS, BATCH = 100, 64

time = torch.arange(POINTS)
series = torch.sin(2 * torch.pi * time / 50) + NOISE * torch.randn(POINTS)
windows = series.unfold(
    0, T + 1, 1
)  # (N, T + 1): 20 points and the one that follows, starting at every point
x, y = windows[:, :T].unsqueeze(-1), windows[:, T:]  # (N, T, 1) and (N, 1)
split = int(0.8 * POINTS) - T  # targets from point 800 on are held out
x_train, y_train, x_test, y_test = x[:split], y[:split], x[split:], y[split:]
print(f"x_train {tuple(x_train.shape)}  y_train {tuple(y_train.shape)}  x_test {tuple(x_test.shape)}")


class NextPoint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = LSTM(1, H, batch_first=True)
        self.head = nn.Linear(H, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (h_n, _) = self.lstm(x)  # h_n (1, N, H): the hidden state after the window's last point
        return self.head(h_n[-1])  # (N, 1)


model, mse = NextPoint(), nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
losses = []
for epoch in range(1, EPOCHS + 1):
    total = 0.0
    for rows in torch.randperm(split).split(BATCH):
        loss = mse(model(x_train[rows]), y_train[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        total += loss.item() * len(rows)
    losses.append(total / split)
    if epoch == 1 or epoch % 10 == 0:
        print(f"epoch {epoch:3d}  loss {losses[-1]:.4f}")

with torch.no_grad():
    prediction = model(x)
error, naive = mse(prediction[split:], y_test), mse(x_test[:, -1], y_test)
print(f"held out: LSTM {error:.4f}  naive last value {naive:.4f}")
print(f"the noise alone, which nobody can predict: {NOISE**2:.4f}")

figure = make_subplots(rows=2, cols=1, subplot_titles=("Training loss (MSE)", "The fit, one step ahead"))
figure.add_trace(go.Scatter(y=losses, name="loss"), row=1, col=1)
for name, values in (("series", y), ("LSTM", prediction)):
    figure.add_trace(go.Scatter(x=time[T:].numpy(), y=values[:, 0].numpy(), name=name), row=2, col=1)
figure.add_vline(x=T + split, line_dash="dot", annotation_text="held out from here", row=2, col=1)
figure.update_yaxes(type="log", row=1, col=1)
figure.update_xaxes(title_text="epoch", row=1, col=1)
figure.update_xaxes(title_text="point", row=2, col=1)
figure.update_layout(height=800)
path = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "sine.html"
figure.write_html(path, include_plotlyjs=True)
print(f"wrote {path}")
