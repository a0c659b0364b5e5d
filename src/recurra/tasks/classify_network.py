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
from typing import cast

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
    others: rows without targets, (M, T) or (M, T, F), and other_lengths (M,), or None.
    """

    x: Tensor
    lengths: Tensor
    targets: Tensor | None = None
    wide: Tensor | None = None
    weights: Tensor | None = None
    others: Tensor | None = None
    other_lengths: Tensor | None = None


_PROBE = 0.01
"""How far virtual adversarial training looks for the worst direction, in units of a row's own size."""


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
    With `virtual` what is added is how far the prediction changes there, the Kullback–Leibler divergence of
    the two, and the worst direction is that in which it changes most (equations 7 and 8, with one step of
    the power method). That needs no targets, so rows without them count too. It takes about three times as
    long.
    Embeddings are not normalised, as they are there: to move each row in units of its own size does the same.
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
        virtual: bool = False,
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
        self.adversarial, self.virtual, self.jitter = adversarial, virtual, jitter
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
        pooled = self.pooling(self._states(values, lengths), lengths)
        logits: Tensor = self.output(functional.dropout(pooled, self.dropout, self.training))
        return logits

    def attention(self, x: Tensor, lengths: Tensor) -> Tensor:
        """How much each step weighs where the pooling is "attention": (N, T), of each row together 1."""
        assert self.pooling.attention is not None
        weights: Tensor = self.pooling.attention(self._states(self.embed(x), lengths), lengths)[1]
        return weights

    def _states(self, values: Tensor, lengths: Tensor) -> Tensor:
        """The states of both directions, (N, T, 2H)."""
        if self.region is not None:
            # beyond a row's end padding embeds to zeros, which is also what the convolution pads with
            seen = functional.relu(self.region(values.transpose(1, 2))).transpose(1, 2)
            seen = functional.dropout(seen, 0.5 * self.dropout, self.training)
            values = torch.cat((values, seen), 2)
        output: Tensor = self.lstm(values, lengths=lengths)[0]
        return output

    def loss(self, batch: Batch) -> Tensor:
        """The mean cross entropy of the rows, () in nats; and what adversarial training adds."""
        values = self.embed(batch.x)
        if not self.adversarial:
            return self._entropy(self.read(values, batch.lengths), batch)
        if self.virtual:
            changes = [self.divergence(values, batch.lengths, self.worst(values, batch.lengths))]
            if batch.others is not None and batch.other_lengths is not None:
                more = self.embed(batch.others)
                changes.append(
                    self.divergence(more, batch.other_lengths, self.worst(more, batch.other_lengths))
                )
            return self._entropy(self.read(values, batch.lengths), batch) + torch.cat(changes).mean()
        values.retain_grad() if values.requires_grad else values.requires_grad_()
        loss = self._entropy(self.read(values, batch.lengths), batch)
        (worst,) = torch.autograd.grad(loss, values, retain_graph=True)
        moved = values + sized(worst, values, batch.lengths, self.adversarial)
        return loss + self._entropy(self.read(moved, batch.lengths), batch)

    def worst(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Where the prediction changes most, as far away as asked for: what to add to values, (N, T, F)."""
        here = values.detach()
        probe = sized(torch.randn_like(here), here, lengths, _PROBE).requires_grad_()
        change = self.divergence(here, lengths, probe).sum()
        (direction,) = torch.autograd.grad(change, probe)
        return sized(direction, here, lengths, self.adversarial)

    def divergence(self, values: Tensor, lengths: Tensor, moved: Tensor) -> Tensor:
        """How far the prediction changes, in nats, where values (N, T, F) are moved by as much: (N,).

        Of all classes, or the mean of each alone. Without the dropout of states, which would change it by
        itself. The prediction without the move counts as given: no gradient goes there.
        """
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                given = self.read(values, lengths)
            found = self.read(values + moved, lengths)
        finally:
            self.train(training)
        if self.several:
            given, found = (torch.stack((one, -one), 2) for one in (given, found))
            logs, others = functional.logsigmoid(given), functional.logsigmoid(found)
            return (logs.exp() * (logs - others)).sum(2).mean(1)
        logs, others = given.log_softmax(1), found.log_softmax(1)
        return (logs.exp() * (logs - others)).sum(1)

    def _entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        return entropy(logits, batch, several=self.several, smoothing=self.label_smoothing)


def sized(direction: Tensor, values: Tensor, lengths: Tensor, distance: float) -> Tensor:
    """The direction (N, T, F), as long as `distance` times the values of each row, zero beyond its length."""
    steps = torch.arange(values.shape[1], device=values.device)
    direction = direction.masked_fill((steps >= lengths.unsqueeze(1)).unsqueeze(-1), 0)
    length = direction.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1)
    size = values.detach().flatten(1).norm(dim=1).view(-1, 1, 1)
    found: Tensor = distance * size * direction / length
    return found


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

    def attention(self, batch: Batch) -> Tensor:
        """The mean of the readers' weights in attention pooling, (N, T), of each row together 1."""
        readers = cast(list[Reader], self.readers)
        return torch.stack([reader.attention(batch.x, batch.lengths) for reader in readers]).mean(0)


def probabilities(logits: Tensor, *, several: bool) -> Tensor:
    """(N, K) to (N, K)."""
    return logits.sigmoid() if several else logits.softmax(1)
