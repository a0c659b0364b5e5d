"""The network that sorts texts and sequences into classes: readers, each an LSTM, beside a bag of n-grams.

A reader reads word by word, or step by step, in both directions, and pools over time. Beside the readers of
a text stands a linear layer on its n-grams, whose weights are fitted apart (`recurra.tasks.classify_bag`):
the one knows which words are there, the others in which order. What each says counts as much as it was
worth on texts that it was not trained on. A wide and a deep part in one network: Cheng et al., "Wide & deep
learning for recommender systems", 2016; that bags and recurrent networks are worth more together: Mesnil et
al., "Ensemble of generative and discriminative techniques for sentiment analysis of movie reviews", 2014.

Axes: N batch, T time, F features, H hidden units of one direction, K classes, M readers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recurra.nn import LSTM, Pooling, init


@dataclass(frozen=True)
class Spelling:
    """The runs of letters of V tokens: pieces (P,) of all tokens in a row, starts (V + 1,) in them.

    count: how many different pieces there are.
    """

    pieces: Tensor
    starts: Tensor
    count: int


class Words(nn.Module):
    """Tokens to vectors: a vector of the token's own, and the sum of those of its runs of letters.

    So a word that is rare is known by its parts (Bojanowski et al., "Enriching word vectors with subword
    information", 2017); the sum is divided by the root of how many they are.
    """

    pieces: Tensor
    starts: Tensor

    def __init__(self, tokens: int, size: int, spelling: Spelling | None = None) -> None:
        """tokens: V. spelling: of the V tokens; None for vectors of their own alone."""
        super().__init__()
        self.own = nn.Embedding(tokens, size, padding_idx=0)
        nn.init.normal_(self.own.weight, std=0.3 if spelling is None else 0.05)
        nn.init.zeros_(self.own.weight[0])
        self.parts = None if spelling is None else nn.Embedding(spelling.count, size)
        if spelling is not None and self.parts is not None:
            nn.init.normal_(self.parts.weight, std=0.5)
            self.register_buffer("pieces", spelling.pieces, persistent=False)
            self.register_buffer("starts", spelling.starts, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, T). Returns (N, T, F)."""
        if self.parts is None:
            plain: Tensor = self.own(x)
            return plain
        tokens, place = torch.unique(x, return_inverse=True)
        first, counts = self.starts[tokens], self.starts[tokens + 1] - self.starts[tokens]
        ends = counts.cumsum(0)
        every = torch.arange(int(ends[-1]) if len(ends) else 0, device=x.device)
        pieces = self.pieces[every + torch.repeat_interleave(first - ends + counts, counts)]
        total = functional.embedding_bag(pieces, self.parts.weight, ends - counts, mode="sum")
        vectors = self.own(tokens) + total / counts.clamp(min=1).sqrt().unsqueeze(1)
        return functional.embedding(place, vectors)


@dataclass(frozen=True)
class Batch:
    """N rows of tokens (N, T) int64 or numbers (N, T, F), their lengths (N,) and targets (N, K).

    targets: 1 for a row's class, or for each of its classes, else 0. wide: what the bag of n-grams says,
    (N, K), or None where there is no bag. weights: how much each row counts in the loss, (N,), or None.
    """

    x: Tensor
    lengths: Tensor
    targets: Tensor | None = None
    wide: Tensor | None = None
    weights: Tensor | None = None


class Reader(nn.Module):
    """Embedding or numbers → bidirectional LSTM → pooling over time → one number for each class.

    In training whole steps are dropped, a fifth of `dropout` (words: Iyyer et al., "Deep unordered
    composition rivals syntactic methods for text classification", 2015), the same features in all steps of a
    row (Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks",
    2016), units of the recurrent state, half of `dropout`, and units of what was pooled.

    With `region` the LSTM also reads what a convolution makes of each word and its neighbours (Johnson and
    Zhang, "Supervised and semi-supervised text categorization using LSTM for region embeddings", 2016).

    With `adversarial` above 0 the loss is also taken where the embedding is moved by that much, in units of
    its own size, in the worst direction (Miyato, Dai and Goodfellow, "Adversarial training methods for
    semi-supervised text classification", 2017, equations 3 and 5); it takes twice the time.
    """

    def __init__(
        self,
        classes: int,
        *,
        hidden_size: int,
        tokens: int = 0,
        embedding_size: int = 0,
        features: int = 0,
        num_layers: int = 1,
        pooling: str = "max",
        dropout: float = 0.5,
        label_smoothing: float = 0.0,
        several: bool = False,
        adversarial: float = 0.0,
        jitter: float = 0.0,
        spelling: Spelling | None = None,
        region: int = 0,
    ) -> None:
        """classes: K. tokens, embedding_size, spelling: of a text's vocabulary; or features: F of a sequence.

        several: whether a row can have several classes, or none: each then stands for itself. jitter: the
        standard deviation of noise on numbers, in training, and of what each row is multiplied by. region:
        an odd number of words that are also read together, each with its neighbours; 0 for none.
        """
        super().__init__()
        self.several, self.dropout, self.label_smoothing = several, dropout, label_smoothing
        self.adversarial, self.jitter = adversarial, jitter
        self.embedding = Words(tokens, embedding_size, spelling) if tokens else None
        size = embedding_size if tokens else features
        self.region = nn.Conv1d(size, size, region, padding=region // 2) if region else None
        self.lstm = LSTM(
            2 * size if region else size,
            hidden_size,
            num_layers=num_layers,
            bidirectional=True,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,
            recurrent_dropout=0.5 * dropout,
        )
        self.pooling = Pooling(pooling, 2 * hidden_size, bidirectional=True)
        self.output = nn.Linear(2 * hidden_size, classes)
        init.orthogonal_(self.lstm)
        init.forget_bias_(self.lstm, 1.0)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: tokens (N, T) or numbers (N, T, F). lengths: (N,). Returns logits (N, K)."""
        return self.read(self.embed(x), lengths)

    def embed(self, x: Tensor) -> Tensor:
        """What the LSTM reads, (N, T, F), with whole steps and features dropped in training."""
        values: Tensor = x if self.embedding is None else self.embedding(x)
        if self.training and self.jitter and self.embedding is None:
            stretched = 1 + self.jitter * torch.randn_like(values[:, :1])
            values = values * stretched + self.jitter * torch.randn_like(values)
        if self.training and self.dropout:
            step = 0.2 * self.dropout
            kept = torch.rand(x.shape[:2], device=values.device) >= step
            values = values * (kept.unsqueeze(-1) / (1 - step))
            if self.embedding is not None:
                same = functional.dropout(values.new_ones(values.shape[0], 1, values.shape[2]), self.dropout)
                values = values * same
        return values

    def read(self, values: Tensor, lengths: Tensor) -> Tensor:
        """values: (N, T, F). Returns logits (N, K)."""
        if self.region is not None:
            # beyond a row's end padding embeds to zeros, which is also what the convolution pads with
            seen = functional.relu(self.region(values.transpose(1, 2))).transpose(1, 2)
            seen = functional.dropout(seen, 0.5 * self.dropout, self.training)
            values = torch.cat((values, seen), 2)
        output, _ = self.lstm(values, lengths=lengths)
        pooled = functional.dropout(self.pooling(output, lengths), self.dropout, self.training)
        logits: Tensor = self.output(pooled)
        return logits

    def loss(self, batch: Batch) -> Tensor:
        """The mean cross entropy of the rows, () in nats; the same again where it is worst, if asked for."""
        values = self.embed(batch.x)
        if not self.adversarial:
            return self._entropy(self.read(values, batch.lengths), batch)
        values.retain_grad() if values.requires_grad else values.requires_grad_()
        loss = self._entropy(self.read(values, batch.lengths), batch)
        (worst,) = torch.autograd.grad(loss, values, retain_graph=True)
        length = worst.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1)
        size = values.detach().flatten(1).norm(dim=1).view(-1, 1, 1)
        moved = values + self.adversarial * size * worst / length
        return loss + self._entropy(self.read(moved, batch.lengths), batch)

    def _entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        return entropy(logits, batch, several=self.several, smoothing=self.label_smoothing)


def entropy(logits: Tensor, batch: Batch, *, several: bool, smoothing: float = 0.0) -> Tensor:
    """The mean over the batch's rows of the cross entropy in nats, (): of all classes, or of each alone.

    smoothing: of so much of the target every class has an equal share (Szegedy et al., "Rethinking the
    inception architecture for computer vision", 2016, section 7).
    """
    assert batch.targets is not None
    if several:
        targets = batch.targets * (1 - smoothing) + smoothing / 2
        each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    else:
        targets = batch.targets * (1 - smoothing) + smoothing / batch.targets.shape[1]
        each = -(targets * torch.log_softmax(logits, 1)).sum(1)
    return each.mean() if batch.weights is None else (each * batch.weights).mean()


class ClassifyNetwork(nn.Module):
    """M readers and what a bag of n-grams says, mixed; from tensors to probabilities.

    `mixture` (2,) is the factor of the bag's logits and of the readers' mean logits. Both are chosen on rows
    that neither was trained on, so they calibrate too: a factor below 1 takes back confidence (temperature
    scaling: Guo et al., "On calibration of modern neural networks", 2017).
    """

    mixture: Tensor

    def __init__(self, readers: list[Reader], *, several: bool = False) -> None:
        """readers: may be none, for a bag alone. several: whether a row can have several classes."""
        super().__init__()
        self.readers = nn.ModuleList(readers)
        self.several = several
        self.register_buffer("mixture", torch.tensor([0.0, 1.0]))

    def forward(self, batch: Batch) -> Tensor:
        """Probabilities (N, K): of all classes together 1, or of each by itself where there are several."""
        return probabilities(self.logits(batch), several=self.several)

    def logits(self, batch: Batch) -> Tensor:
        """(N, K): the readers' mean and the bag's, mixed."""
        wide = 0.0 if batch.wide is None else self.mixture[0] * batch.wide
        if not len(self.readers):
            assert batch.wide is not None
            return self.mixture[0] * batch.wide
        return self.mixture[1] * self.deep(batch) + wide

    def deep(self, batch: Batch) -> Tensor:
        """The mean of the readers' logits, (N, K)."""
        return torch.stack([reader(batch.x, batch.lengths) for reader in self.readers]).mean(0)


def probabilities(logits: Tensor, *, several: bool) -> Tensor:
    """(N, K) to (N, K)."""
    return logits.sigmoid() if several else logits.softmax(1)
