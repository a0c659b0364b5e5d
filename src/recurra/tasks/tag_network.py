"""The tagger's network: words and characters, a bidirectional LSTM, a conditional random field.

It takes tensors and knows nothing of words. Each different word of a batch is encoded once: its embedding,
those of its shape and affixes (Huang, Xu and Yu 2015), and what a convolution over its characters (Ma and
Hovy, "End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF", 2016; Chiu and Nichols, "Named Entity
Recognition with Bidirectional LSTM-CNNs", 2016) or an LSTM over them (Lample et al., "Neural Architectures
for Named Entity Recognition", 2016) finds. What is dropped in training is the same at all steps of a row
(Reimers and Gurevych, "Optimal Hyperparameters for Deep LSTM-Networks for Sequence Labeling Tasks", 2017).

Axes: N sentences, T words, U different words, A attributes of a word, C characters of a word, H, K tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding

from recurra.nn import CRF, LSTM, Allowed
from recurra.nn.init import forget_bias_, orthogonal_

CHARACTERS = ("cnn", "lstm", "none")


@dataclass(frozen=True)
class Batch:
    """N sentences and their U different words.

    attributes: (U, A), characters: (U, C), 0 is padding. places: (N, T), which of the U words each is.
    lengths: (N,). tags: (N, T).
    """

    attributes: Tensor
    characters: Tensor
    places: Tensor
    lengths: Tensor
    tags: Tensor


class TagNetwork(nn.Module):
    """Words (U, A) and (U, C), and where they stand (N, T), to a score for each tag (N, T, K), and a CRF.

    For example::

        network = TagNetwork(sizes=(900, 40), letters=60, tags=9)
        loss = network.loss(batch)
        tags, scores = network.crf.decode(network(network.words(attributes, characters)[places], lengths))
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        letters: int,
        tags: int,
        allowed: Allowed | None = None,
        word_size: int = 100,
        attribute_size: int = 12,
        characters: str = "cnn",
        letter_size: int = 25,
        filters: int = 50,
        hidden_size: int = 128,
        layers: int = 1,
        dropout: float = 0.5,
        recurrent_dropout: float = 0.25,
    ) -> None:
        """sizes: how many numbers each of the A attributes has, words first. letters: likewise. tags: K.

        word_size, attribute_size, letter_size: of their embeddings. characters: "cnn", "lstm" or "none".
        filters: of the convolution, and the units of the LSTM in both directions together. dropout: of words
        and of what the LSTM gives; recurrent_dropout: of its hidden state.
        """
        super().__init__()
        self.dropout = dropout
        self.tables = nn.ModuleList(
            nn.Embedding(count, attribute_size if place else word_size, padding_idx=0)
            for place, count in enumerate(sizes)
        )
        self.characters = characters
        width = word_size + attribute_size * (len(sizes) - 1)
        if characters != "none":
            self.letters = nn.Embedding(letters, letter_size, padding_idx=0)
            width += filters
        if characters == "cnn":
            self.filters = nn.Conv1d(letter_size, filters, 3, padding=1)
        elif characters == "lstm":
            self.spelling = LSTM(letter_size, filters // 2, batch_first=True, bidirectional=True)
        self.lstm = LSTM(
            width,
            hidden_size,
            layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
            recurrent_dropout=recurrent_dropout,
        )
        self.output = nn.Linear(2 * hidden_size, tags)
        self.crf = CRF(tags, allowed)
        self._start()

    def _start(self) -> None:
        for table in self.tables:
            scale = (3 / cast(nn.Embedding, table).embedding_dim) ** 0.5  # Ma and Hovy 2016, §3.1
            nn.init.uniform_(cast(Tensor, table.weight), -scale, scale)
        if self.characters != "none":
            nn.init.uniform_(self.letters.weight, -0.3, 0.3)
        for table in (*self.tables, *((self.letters,) if self.characters != "none" else ())):
            with torch.no_grad():
                cast(Tensor, table.weight)[0] = 0
        forget_bias_(orthogonal_(self.lstm))
        if self.characters == "lstm":
            forget_bias_(orthogonal_(self.spelling))
        nn.init.zeros_(self.output.bias)

    @torch.no_grad()
    def begin_with(self, numbers: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Give the words of these numbers (U,) vectors (U, E) to begin with, scaled as the others' are."""
        table = cast(nn.Embedding, self.tables[0]).weight
        given = torch.from_numpy(vectors).to(table)
        table[list(numbers)] = given * (table[1:].std() / given.std().clamp(min=1e-6))

    def words(self, attributes: Tensor, characters: Tensor) -> Tensor:
        """What is known of each word on its own, (U, F)."""
        parts = [table(numbers) for table, numbers in zip(self.tables, attributes.T, strict=True)]
        if self.characters == "cnn":
            known = characters != 0
            found = self.filters(self.letters(characters).transpose(1, 2))
            parts.append(found.masked_fill(~known[:, None], -torch.inf).amax(2).clamp(min=-10.0))
        elif self.characters == "lstm":
            lengths = (characters != 0).sum(1)
            _, (h_n, _) = self.spelling(self.letters(characters), lengths=lengths)
            parts.append(h_n.transpose(0, 1).flatten(1))
        return torch.cat(parts, 1)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Scores (N, T, K) of sentences of words that are known by their vectors (N, T, F)."""
        output, _ = self.lstm(self._dropped(vectors), lengths=lengths)
        return cast(Tensor, self.output(self._dropped(output)))

    def loss(self, batch: Batch) -> Tensor:
        """The mean negative log-likelihood of the sentences' tags."""
        known = dropout(self.words(batch.attributes, batch.characters), 0.1, self.training)
        scores = self(embedding(batch.places, known), batch.lengths)
        return -cast(Tensor, self.crf(scores, batch.tags, batch.lengths)).mean()

    def _dropped(self, values: Tensor) -> Tensor:
        """values (N, T, F) without some of the features, the same ones at all steps of a row, in training."""
        if not self.training or not self.dropout:
            return values
        return values * dropout(values.new_ones(values.shape[0], 1, values.shape[2]), self.dropout)
