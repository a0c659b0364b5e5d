"""Recurrent layers: drop-in subclasses of torch.nn's that also take true lengths and show every gate.

Beside them what goes on top: attention, pooling over time, and a CRF over tags.
"""

from __future__ import annotations

from recurra.nn import init
from recurra.nn.attention import AdditiveAttention, DotAttention, GeneralAttention, LocationAttention, Memory
from recurra.nn.cells import GRUCell, LSTMCell, RNNCell
from recurra.nn.constraints import Allowed, bio_constraints, bioes_constraints
from recurra.nn.crf import CRF
from recurra.nn.matrix_memory import MLSTM
from recurra.nn.minimal import MinGRU, MinLSTM
from recurra.nn.pooling import AttentionPooling, Pooling, pool_last, pool_max, pool_mean
from recurra.nn.recurrent import GRU, LSTM, RNN
from recurra.nn.slstm import SLSTM
from recurra.nn.stacked import Stacked
from recurra.nn.variants import CoupledLSTM, LayerNormGRU, LayerNormLSTM, PeepholeLSTM

__all__ = [
    "CRF",
    "GRU",
    "LSTM",
    "MLSTM",
    "RNN",
    "SLSTM",
    "AdditiveAttention",
    "Allowed",
    "AttentionPooling",
    "CoupledLSTM",
    "DotAttention",
    "GRUCell",
    "GeneralAttention",
    "LSTMCell",
    "LayerNormGRU",
    "LayerNormLSTM",
    "LocationAttention",
    "Memory",
    "MinGRU",
    "MinLSTM",
    "PeepholeLSTM",
    "Pooling",
    "RNNCell",
    "Stacked",
    "bio_constraints",
    "bioes_constraints",
    "init",
    "pool_last",
    "pool_max",
    "pool_mean",
]
