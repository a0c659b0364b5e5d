"""`PeepholeLSTM`, `CoupledLSTM`, `LayerNormLSTM`, `LayerNormGRU`: called as `recurra.nn.LSTM`, and as quick.

All take lengths, resets, noise, learned states and traces as `recurra.nn.LSTM` and `recurra.nn.GRU` do, the
LSTMs projections too, in any number of layers and directions: their texts have the shapes, and
`recurra.nn.noise` the noise. torch has no such layers, so what the native engine does not do goes to the
equations in plain torch (`recurra.engine.variants`, `recurra.engine.norms`). All raise what torch's layers
raise for bad arguments, and ValueError for chances outside 0..1.
"""

from __future__ import annotations

from typing import Any

import torch

from recurra.nn.own import OwnLayer


class PeepholeLSTM(OwnLayer):
    """An LSTM whose gates see the cell (Gers & Schmidhuber, "Recurrent nets that time and count", 2000)::

        i_t = σ(W_i x_t + R_i h + p_i ⊙ c + b_i)      c: the cell state of the step before
        f_t = σ(W_f x_t + R_f h + p_f ⊙ c + b_f)
        g_t = tanh(W_g x_t + R_g h + b_g)
        c_t = f_t ⊙ c + i_t ⊙ g_t
        o_t = σ(W_o x_t + R_o h + p_o ⊙ c_t + b_o)
        h_t = o_t ⊙ tanh(c_t)

    Weights are those of `torch.nn.LSTM`, and for each layer and direction `weight_peephole_l0` (3, H), the
    rows p_i, p_f, p_o. The gates of a trace are input, forget, candidate, output.

    For example::

        layer = PeepholeLSTM(3, 8, bidirectional=True, batch_first=True)
        output, (h_n, c_n) = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 16)
    """

    kind = "peephole"


class CoupledLSTM(OwnLayer):
    """An LSTM whose input gate is what the forget gate leaves (CIFG: Greff et al., "LSTM: a search space
    odyssey", 2017)::

        f_t = σ(W_f x_t + R_f h + b_f)
        g_t = tanh(W_g x_t + R_g h + b_g)
        o_t = σ(W_o x_t + R_o h + b_o)
        c_t = f_t ⊙ c + (1 - f_t) ⊙ g_t
        h_t = o_t ⊙ tanh(c_t)

    A quarter fewer weights than an LSTM: `weight_ih_l0` (3H, F) and the like, rows in the order f g o. The
    gates of a trace are forget, candidate, output.

    With `refine=True` the cell keeps e_t = 2 r_t ⊙ f_t + (1 - 2 r_t) ⊙ f_t² in place of f_t, by a refine gate
    r_t = σ(W_r x_t + R_r h + b_r), so that a gate near 0 or 1 still learns (Gu et al., "Improving the gating
    mechanism of recurrent neural networks", 2020); rows in the order f r g o, and so in a trace: forget,
    refine, candidate, output. `recurra.nn.init.uniform_gate_` begins both gates as the paper does.

    For example::

        layer = CoupledLSTM(3, 8, batch_first=True)
        output, (h_n, c_n) = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 8)
    """

    def __init__(self, *sizes: Any, refine: bool = False, **options: Any) -> None:
        """Arguments as `PeepholeLSTM` has them, and refine: whether there is a refine gate."""
        self.kind = "refined" if refine else "coupled"
        super().__init__(*sizes, **options)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return super().extra_repr() + (", refine=True" if self.kind == "refined" else "")


class _LayerNorm(OwnLayer):
    """A layer whose `weight_norm_l0` and so on begin at one, and what they add at zero."""

    def reset_parameters(self) -> None:
        """Draws weights and biases as torch does; normalised sums are first left as they are."""
        super().reset_parameters()
        for name, weight in self.named_parameters(recurse=False):
            if name.startswith("weight_norm"):
                torch.nn.init.ones_(weight)
                torch.nn.init.zeros_(weight[9:])  # of an LSTM: what is added to the cell state


class LayerNormLSTM(_LayerNorm):
    """An LSTM with layer normalisation (Ba, Kiros & Hinton, "Layer normalization", 2016)::

        i_t, f_t, g_t, o_t = (σ, σ, tanh, σ)(α ⊙ LN(W x_t) + b_ih + β ⊙ LN(R h) + b_hh)
        c_t = f_t ⊙ c + i_t ⊙ g_t
        h_t = o_t ⊙ tanh(γ ⊙ LN(c_t) + δ)

    LN takes all numbers of one row and step to mean 0 and variance 1 (ε = 1e-5). Weights are those of
    `torch.nn.LSTM`, and for each layer and direction `weight_norm_l0` (10, H): the rows α of i, f, g, o, then
    β of i, f, g, o, then γ and δ. α, β and γ begin at 1, δ at 0. The gates of a trace are input, forget,
    candidate, output.

    For example::

        layer = LayerNormLSTM(3, 8, num_layers=2, batch_first=True)
        output, (h_n, c_n) = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 8)
    """

    kind = "layer_norm_lstm"


class LayerNormGRU(_LayerNorm):
    """A GRU with layer normalisation (Ba, Kiros & Hinton, "Layer normalization", 2016)::

        r_t, z_t = σ(α ⊙ LN(W x_t) + b_ih + β ⊙ LN(R h) + b_hh)
        n_t = tanh(α ⊙ LN(W x_t) + b_ih + r_t ⊙ (β ⊙ LN(R h) + b_hh))
        h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h

    LN is over the sums of r and z together, and over those of n by themselves. Weights are those of
    `torch.nn.GRU`, and for each layer and direction `weight_norm_l0` (6, H): the rows α of r, z, n, then β of
    r, z, n, which begin at 1. The gates of a trace are reset, update, candidate.

    For example::

        layer = LayerNormGRU(3, 8, bidirectional=True, batch_first=True)
        output, h_n = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 16)
    """

    kind = "layer_norm_gru"
    has_cell_state = False
    state_names = ("h_0",)
