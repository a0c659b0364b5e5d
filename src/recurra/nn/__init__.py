"""Recurrent layers: drop-in subclasses of torch.nn's that also take true lengths and show every gate."""

from __future__ import annotations

from recurra.nn.cells import GRUCell, LSTMCell, RNNCell
from recurra.nn.recurrent import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]
