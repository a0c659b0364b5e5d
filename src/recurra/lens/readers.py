"""The networks of the estimators as the lens calls them: from tokens or numbers (N, T) to one answer.

Each holds the very layers that were trained, under their own names, and calls them as `predict` does. Token 0
stands for nothing: its vector is zero. Axes: N batch, T time, F features, E of an embedding, K answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from recurra.tasks.classify_network import ClassifyNetwork
    from recurra.tasks.generate_network import LanguageNetwork
    from recurra.tasks.tag_features import Lexicon
    from recurra.tasks.tag_network import TagNetwork


class Joined(nn.Module):
    """The embeddings of several readers side by side: tokens (N, T) to (N, T, M·E)."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (N, T) int64."""
        return torch.cat([part(tokens) for part in self.parts], -1)


class LabelReader(nn.Module):
    """A Classifier's readers, mixed with what the n-grams of the same texts say.

    Where tokens were put for others, the n-grams are counted anew; a change of vectors reaches the readers
    alone. counted: from the numbers of samples (N,), tokens (N, T) and `wide` (N, K) to the `wide` of these
    tokens.
    """

    def __init__(
        self, network: ClassifyNetwork, counted: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self._counted = counted
        self.readers = network.readers
        embeddings = [cast(Any, reader).embedding for reader in network.readers]
        self.embedding = Joined(embeddings) if embeddings and embeddings[0] is not None else None
        self.several = network.several
        self.register_buffer("mixture", network.mixture)

    def forward(self, x: Tensor, wide: Tensor, sample: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x: tokens (N, T) or numbers (N, T, F). wide: (N, K), what the n-grams say. sample: (N,) numbers.

        Returns logits (N, K).
        """
        if self._counted is not None and self.embedding is not None:
            wide = self._counted(sample, x, wide)
        lengths = _full(x) if lengths is None else lengths
        values = x if self.embedding is None else self.embedding(x)
        count = len(self.readers)
        parts = [values] * count if self.embedding is None else values.chunk(count, -1)
        logits = cast(Tensor, self.mixture)[0] * wide
        if count:
            said = [cast(Any, one).read(part, lengths) for one, part in zip(self.readers, parts, strict=True)]
            logits = logits + cast(Tensor, self.mixture)[1] * torch.stack(said).mean(0)
        return logits


class WordList:
    """Words and their numbers from 1 on, in the order in which they came. Shared by all that read them."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._numbers: dict[str, int] = {}

    def numbers(self, words: Iterable[str]) -> list[int]:
        """The number of each word; new ones are added."""
        for word in words:
            if word not in self._numbers:
                self.words.append(word)
                self._numbers[word] = len(self.words)
        return [self._numbers[word] for word in words]

    def __deepcopy__(self, memo: dict[int, Any]) -> WordList:
        """Itself, since copies of a network read the same words."""
        return self


class WordTable(nn.Module):
    """What a Tagger's network knows of each word on its own: numbers (N, T) to vectors (N, T, F).

    Each different word is encoded once, when it is first read, as the Tagger itself does.
    """

    weight: Tensor

    def __init__(self, network: TagNetwork, lexicon: Lexicon, words: WordList) -> None:
        super().__init__()
        self._network, self._lexicon, self._words = (network,), lexicon, words
        self.register_buffer("weight", torch.zeros(1, network.lstm.input_size), persistent=False)

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (N, T) int64."""
        new = self._words.words[len(self.weight) - 1 :]
        if new:
            network = self._network[0].eval()
            attributes, characters = (torch.from_numpy(one) for one in self._lexicon.encode(new))
            found = network.words(attributes.to(self.weight.device), characters.to(self.weight.device))
            self.weight = torch.cat([self.weight, found])
        return self.weight[tokens]


class TagReader(nn.Module):
    """A Tagger's network from the numbers of words to a score for each tag, (N, T, K), before its CRF."""

    def __init__(self, network: TagNetwork, lexicon: Lexicon, words: WordList) -> None:
        super().__init__()
        self.embedding = WordTable(network, lexicon, words)
        self.lstm, self.output, self.crf = network.lstm, network.output, network.crf

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """tokens: (N, T) int64. lengths: (N,)."""
        lengths = _full(tokens) if lengths is None else lengths
        output, _ = self.lstm(self.embedding(tokens), lengths=lengths)
        return cast(Tensor, self.output(output))


class TextReader(nn.Module):
    """A LanguageModel's network from tokens (N, T) to what follows each row's last one.

    Returns log-probabilities (N, K).
    """

    def __init__(self, network: LanguageNetwork) -> None:
        super().__init__()
        self.embedding, self.layers = network.embedding, network.layers
        self.output, self.bias = network.output, network.bias

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """tokens: (N, T) int64. lengths: (N,)."""
        lengths = _full(tokens) if lengths is None else lengths
        below = self.embedding(tokens) * (tokens != 0).unsqueeze(-1)
        for layer in self.layers:
            below, _ = layer(below, lengths=lengths)
        last = below[torch.arange(len(tokens), device=tokens.device), (lengths - 1).clamp(min=0)]
        weight = self.embedding.weight if self.output is None else self.output
        return functional.linear(last, weight, self.bias).log_softmax(1)


def _full(x: Tensor) -> Tensor:
    return torch.full(x.shape[:1], x.shape[1], device=x.device)


def spans_of(text: str, tokens: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where each token stands in the text, first and last + 1; None where that cannot be told."""
    small = text.lower()
    if len(small) != len(text):
        return None
    found, at = [], 0
    for token in tokens:
        start = small.find(token.lower(), at) if token else at
        if start < 0:
            return None
        at = start + len(token)
        found.append((start, at))
    return found


def own_names(text: str, tokens: Sequence[str]) -> tuple[str, ...]:
    """The tokens as they are written in the text, capitals too; as they are where that cannot be told."""
    spans = spans_of(text, tokens)
    return tuple(tokens) if spans is None else tuple(text[start:stop] for start, stop in spans)
