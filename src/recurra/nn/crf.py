"""`CRF`: a linear-chain conditional random field over the tags of a sequence, for LSTM-CRF taggers.

A path y gives each step of a row a tag, and scores

    score(y) = start[y_1] + Σ_t emissions[t, y_t] + Σ_{t>1} transitions[y_{t−1}, y_t] + end[y_last]

and p(y | x) = exp(score(y) − log Z), where Z sums exp(score) over all paths (Lafferty, McCallum and Pereira,
"Conditional Random Fields", 2001, eq. 1; with an LSTM's emissions: Lample et al., "Neural Architectures for
Named Entity Recognition", 2016, §2.2). The path of a row without steps is empty, and its score is zero.

log Z and its gradient, the marginals, come from forward and backward messages (Rabiner, "A Tutorial on Hidden
Markov Models", 1989, eqs. 19 to 27). Two ways give the same numbers:

* `_sweep`, the fast way: messages as probabilities that sum to one at each step (Rabiner, §V.A), so that a
  step is one matrix product. Where numbers that matter fall below the dtype's smallest, it says so, and the
  plain twin does the work;
* `_log_partition` and `_log_marginals`, the plain twin: messages as logarithms. It also serves compiled
  graphs, function transforms and the gradient of a gradient.

Axes: N batch, T time, K tags.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from recurra.engine.scan import transformed
from recurra.nn.constraints import Allowed
from recurra.nn.inputs import Lengths, checked_lengths


class CRF(nn.Module):
    """A linear-chain conditional random field. Its equations: the module's text.

    emissions, everywhere: (N, T, K), the network's score of each tag at each step, of any floating dtype;
    half precision is widened to float32. lengths: (N,), how many steps of each row count, a tensor of any
    integer dtype on any device, a list or an array, zero allowed; None for all. What emissions and tags hold
    beyond, NaN included, reaches no result and no gradient.

    Attributes: transitions (K, K), from the tag of the row to the tag of the column; start, end (K,). What
    `allowed` forbids has probability zero whatever they hold. An emission of −inf forbids a tag at one step.

    For example::

        crf = CRF(9)
        loss = -crf(emissions, tags, lengths=[5, 2]).mean()      # emissions (2, 5, 9), tags (2, 5)
        best, score = crf.decode(emissions, lengths=[5, 2])      # (2, 5), −1 beyond a row's length, and (2,)
    """

    transitions: nn.Parameter
    start: nn.Parameter
    end: nn.Parameter
    allowed_transitions: Tensor | None
    allowed_start: Tensor | None
    allowed_end: Tensor | None

    def __init__(
        self,
        tags: int,
        allowed: Allowed | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """tags: K. allowed: which transitions, starts and ends there are, all when None.

        The masks are no part of the `state_dict`; give them again to a CRF that loads one. Raises ValueError
        for fewer than one tag, and for masks that are not bool or do not fit.
        """
        super().__init__()
        if isinstance(tags, bool) or not isinstance(tags, int) or tags < 1:
            raise ValueError(f"tags: expected their number, at least 1, got {tags!r}; count the labels")
        self.tags = tags
        for name, shape in (("transitions", (tags, tags)), ("start", (tags,)), ("end", (tags,))):
            setattr(self, name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
            mask = None if allowed is None else _checked_mask(getattr(allowed, name), name, shape).to(device)
            self.register_buffer(f"allowed_{name}", mask, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew, uniform in −0.1 to 0.1: nearly no preference."""
        for parameter in (self.transitions, self.start, self.end):
            nn.init.uniform_(parameter, -0.1, 0.1)

    def extra_repr(self) -> str:
        """What `repr` shows: the number of tags, and whether there are constraints."""
        return f"{self.tags}, constrained={self.allowed_transitions is not None}"

    def forward(self, emissions: Tensor, tags: Tensor, lengths: Lengths | None = None) -> Tensor:
        """The log-likelihood of the tags, (N,): log p(tags | emissions). Its negative is the loss.

        tags: (N, T) of an integer dtype, 0 to K − 1; anything beyond a row's length. Raises ValueError for
        arguments that do not fit, and for tags that the constraints forbid. A compiled graph cannot look at
        values: there such tags have log-likelihood −inf.
        """
        chain = self._chain(emissions, lengths)
        return _path_score(chain, _checked_tags(tags, chain)) - _log_z(chain)

    def log_partition(self, emissions: Tensor, lengths: Lengths | None = None) -> Tensor:
        """log Z, (N,): the logarithm of the sum of exp(score) over all paths, −inf where there is none.

        Raises ValueError for arguments that do not fit.
        """
        return _log_z(self._chain(emissions, lengths))

    def marginals(self, emissions: Tensor, lengths: Lengths | None = None) -> Tensor:
        """The probability of each tag at each step over all paths, (N, T, K), zero beyond a row's length.

        Autograd goes through them. Raises ValueError for arguments that do not fit.
        """
        chain = self._chain(emissions, lengths)
        swept = None if _must_be_plain() or _needs_graph(chain) else _sweep(chain)
        return _log_marginals(chain) if swept is None else swept.marginals

    @torch.no_grad()
    def decode(self, emissions: Tensor, lengths: Lengths | None = None) -> tuple[Tensor, Tensor]:
        """The best path of each row by Viterbi's algorithm, and its score: tags (N, T) int64, scores (N,).

        Tags are −1 beyond a row's length, and throughout a row that no path is allowed for, whose score is
        −inf. exp(score − log_partition) is the path's probability. Source: Rabiner, 1989, eqs. 32 to 35.
        Raises ValueError for arguments that do not fit.
        """
        return _best(self._chain(emissions, lengths))

    @torch.no_grad()
    def n_best(self, emissions: Tensor, n: int, lengths: Lengths | None = None) -> tuple[Tensor, Tensor]:
        """The n best paths of each row, best first, and their scores: tags (N, n, T) int64, scores (N, n).

        Tags are −1 beyond a row's length. Where a row has fewer than n paths, the rest has tags of −1 and
        scores of −inf. Source: Seshadri and Sundberg, "List Viterbi Decoding Algorithms with Applications",
        1994: n paths are kept for each tag. Raises ValueError for arguments that do not fit.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"n: expected a number of paths, at least 1, got {n!r}; ask for one or more")
        return _viterbi(self._chain(emissions, lengths), n)

    def _chain(self, emissions: Tensor, lengths: Lengths | None) -> _Chain:
        """What a method was called with, checked. Raises ValueError."""
        if not isinstance(emissions, Tensor) or not emissions.is_floating_point() or emissions.dim() != 3:
            raise ValueError(
                f"emissions: expected scores (N, T, K) of a floating dtype, got {_kind(emissions)}; "
                "give one sequence as a batch of one row, emissions.unsqueeze(0)"
            )
        if emissions.shape[2] != self.tags:
            raise ValueError(
                f"emissions: expected {self.tags} scores a step, shape (N, T, {self.tags}), got "
                f"{tuple(emissions.shape)}; let the layer below have {self.tags} outputs, and the batch first"
            )
        rows, steps, _ = emissions.shape
        if lengths is None:
            counts = torch.full((rows,), steps, device=emissions.device)
        else:
            counts = checked_lengths(lengths, emissions, "emissions")
        inside = torch.arange(steps, device=emissions.device) < counts[:, None]
        dtype = torch.promote_types(emissions.dtype, self.transitions.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        scores = emissions.to(dtype).masked_fill(~inside[:, :, None], 0)
        weights = [weight.to(dtype) for weight in (self.transitions, self.start, self.end)]
        masks = (self.allowed_transitions, self.allowed_start, self.allowed_end)
        transitions, start, end = (
            weight if mask is None else weight.masked_fill(~mask, -torch.inf)
            for weight, mask in zip(weights, masks, strict=True)
        )
        return _Chain(scores, transitions, start, end, counts, inside)


class _Chain(NamedTuple):
    """A batch of chains, all in one dtype, at least float32."""

    scores: Tensor  # (N, T, K) emissions, zero beyond each length
    transitions: Tensor  # (K, K), −inf where forbidden
    start: Tensor  # (K,)
    end: Tensor  # (K,)
    counts: Tensor  # (N,) lengths
    inside: Tensor  # (N, T) bool, True at the steps that count


def _checked_tags(tags: Tensor, chain: _Chain) -> Tensor:
    """tags (N, T) int64, zero beyond each length. Raises ValueError."""
    rows, steps, count = chain.scores.shape
    whole = isinstance(tags, Tensor) and not (tags.is_floating_point() or tags.is_complex())
    if not whole or tags.shape != (rows, steps):
        raise ValueError(
            f"tags: expected a tensor (N, T) = {(rows, steps)} of an integer dtype, got {_kind(tags)}; "
            "pad them as the emissions are padded, and convert them with .long()"
        )
    tags = tags.to(chain.scores.device, torch.int64).masked_fill(~chain.inside, 0)
    if not _must_be_plain() and (outside := (tags < 0) | (tags >= count)).any():
        row, step = outside.nonzero()[0].tolist()
        raise ValueError(
            f"tags: expected 0 to {count - 1}, got {int(tags[row, step])} in row {row} at step {step}; "
            "give the row its length where the tag is padding"
        )
    return tags


def _checked_mask(mask: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """One of allowed's masks. Raises ValueError."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"allowed.{name}: expected a tensor {shape} of torch.bool, got {_kind(mask)}; "
            "convert it with .bool(), and give CRF as many tags as there are labels"
        )
    return mask


def _kind(value: Any) -> str:
    """What an argument is, for a message."""
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def _turned(values: Tensor, counts: Tensor) -> Tensor:
    """values (N, T, K) with each row's own steps in reverse order. Its own inverse."""
    steps = torch.arange(values.shape[1], device=values.device)
    places = torch.where(steps < counts[:, None], counts[:, None] - 1 - steps, steps)
    return values.gather(1, places[:, :, None].expand_as(values))


def _at_last(values: Tensor, counts: Tensor) -> Tensor:
    """values (N, T, K) at each row's last step, (N, K); at its first where it has no steps."""
    places = (counts - 1).clamp(min=0)[:, None, None]
    return values.gather(1, places.expand(-1, 1, values.shape[2])).squeeze(1)


def _must_be_plain() -> bool:
    """Whether values cannot be looked at, as in a compiled graph or under `vmap`: the plain twin's work."""
    return torch.compiler.is_compiling() or transformed()


def _needs_graph(chain: _Chain) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in chain)


def _path_score(chain: _Chain, tags: Tensor) -> Tensor:
    """The score of each row's path (N,): tags (N, T), zero beyond each length. Raises ValueError."""
    scores, transitions, start, end, counts, inside = chain
    if not scores.shape[1]:
        return scores.sum((1, 2))
    emitted = scores.gather(2, tags[:, :, None]).squeeze(2).sum(1)
    pairs = tags[:, :-1] * scores.shape[2] + tags[:, 1:]
    moves = transitions.flatten().index_select(0, pairs.flatten()).view(pairs.shape)
    moves = torch.cat((start[tags[:, :1]], moves), 1).masked_fill(~inside, 0)  # how each step was come to
    total = moves.sum(1) + end[_at_last(tags[:, :, None], counts)[:, 0]].masked_fill(counts == 0, 0)
    if not _must_be_plain() and (forbidden := total == -torch.inf).any():
        row = int(forbidden.nonzero()[0])
        raise ValueError(_forbidden(tags[row, : counts[row]].tolist(), moves[row].tolist(), row))
    return emitted + total


def _forbidden(tags: list[int], moves: list[float], row: int) -> str:
    """What to say of a row's tags that break a constraint; moves: the scores of the start and transitions."""
    step, place = len(tags) - 1, "at the end"
    if -torch.inf in moves:
        step = moves.index(-torch.inf)
        place = f"after tag {tags[step - 1]}" if step else "at the start"
    return (
        f"tags: expected a path that the constraints allow, got tag {tags[step]} {place}, which they forbid, "
        f"in row {row} at step {step}; correct the tags, or allow it"
    )


def _log_z(chain: _Chain) -> Tensor:
    """log Z (N,), the fast way where it is open."""
    if _needs_graph(chain) and not _must_be_plain():
        return cast(Tensor, _LogZ.apply(*chain))  # type: ignore[no-untyped-call]
    swept = None if _must_be_plain() else _sweep(chain)
    return _log_partition(chain) if swept is None else swept.log_z


class _Swept(NamedTuple):
    """What both directions' messages come to."""

    log_z: Tensor  # (N,)
    marginals: Tensor  # (N, T, K)
    before: Tensor  # (N, T, K) forward messages
    after: Tensor  # (N, T, K); before[t − 1] · edges · after[t] is the probability of a transition
    edges: Tensor  # (K, K) exp(transitions), scaled


def _sweep(chain: _Chain) -> _Swept | None:
    """log Z and marginals from messages that sum to one at each step; None where the dtype is too narrow."""
    scores, transitions, start, end, counts, inside = chain
    rows, steps, tags = scores.shape
    if rows == 0 or steps == 0:
        return None
    tops = scores.amax(2, keepdim=True)
    seen = (scores - tops).exp()
    info = torch.finfo(scores.dtype)
    edge_top = transitions.max().clamp(min=info.min)
    edges = (transitions - edge_top).exp()
    ends = torch.stack((start, end))
    end_tops = ends.amax(1, keepdim=True)
    both = torch.stack((seen.transpose(0, 1), _turned(seen, counts).transpose(0, 1)), 1)  # (T, 2, N, K)
    first = (ends - end_tops).exp()[:, None]
    arriving, leaving, totals = _pass_on(both, first, torch.stack((edges, edges.T)))
    after = seen * _turned(arriving[:, 1].transpose(0, 1), counts)
    joint = arriving[:, 0].transpose(0, 1) * after
    before = leaving[:, 0].transpose(0, 1)
    weight = joint.sum(2, keepdim=True)
    # a message loses at most K · tiny where numbers vanish, and weight says how much the whole has left
    sound = weight.squeeze(2) >= 1000 * tags * info.tiny / info.eps
    if not (sound | ~inside).all():
        return None
    beyond = ~inside[:, :, None]
    marginals, after, before = (m.masked_fill(beyond, 0) for m in (joint / weight, after / weight, before))
    logs = totals[: steps - 1, 1].squeeze(2).T.log()  # (N, T − 1), from each row's last step to its second
    scale = tops.sum((1, 2)) + (counts - 1) * edge_top + end_tops.sum()  # tops are zero beyond each length
    log_z = weight[:, 0, 0].log() + logs.masked_fill(~inside[:, 1:], 0).sum(1) + scale
    return _Swept(log_z.masked_fill(counts == 0, 0), marginals, before, after, edges)


def _pass_on(both: Tensor, first: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Messages of both directions, without and with each step's own emission, and what these summed to.

    both: (T, 2, N, K), as the results, the sums with 1 for K. first: (2, 1, K). edges: (2, K, K).
    """
    arriving, leaving = torch.empty_like(both), torch.empty_like(both)
    totals = torch.empty_like(both[..., :1])
    arriving[0] = first
    into, out = arriving.unbind(), leaving.unbind()
    for step, (emitted, total) in enumerate(zip(both.unbind(), totals.unbind(), strict=True)):
        if step:
            torch.bmm(out[step - 1], edges, out=into[step])  # autocast leaves products with `out` alone
        torch.mul(into[step], emitted, out=out[step])
        torch.sum(out[step], 2, keepdim=True, out=total)
        out[step].div_(total)
    return arriving, leaving, totals


class _LogZ(torch.autograd.Function):
    """Autograd's view of log Z. Asked for a graph of the gradient, it differentiates the plain twin."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        chain = _Chain(*arguments)
        ctx.swept, ctx.steps = _sweep(chain), (chain.counts, chain.inside)
        ctx.save_for_backward(*chain[:4])
        return _log_partition(chain) if ctx.swept is None else cast(Tensor, ctx.swept.log_z)

    @staticmethod
    def backward(ctx: Any, d_log_z: Tensor) -> tuple[Tensor | None, ...]:
        swept: _Swept | None = ctx.swept
        if swept is None or torch.is_grad_enabled():
            return (*_plain_gradients(ctx, d_log_z), None, None)
        d_scores = swept.marginals * d_log_z[:, None, None]
        after = (swept.after * d_log_z[:, None, None])[:, 1:].flatten(0, 1)
        d_transitions = torch.empty_like(swept.edges)
        torch.mm(swept.before[:, :-1].flatten(0, 1).T, after, out=d_transitions).mul_(swept.edges)
        d_end = _at_last(d_scores, ctx.steps[0]).sum(0)
        return d_scores, d_transitions, d_scores[:, 0].sum(0), d_end, None, None


def _plain_gradients(ctx: Any, d_log_z: Tensor) -> list[Tensor | None]:
    """Gradients of scores, transitions, start and end; they can be differentiated again where asked for."""
    again, wanted = torch.is_grad_enabled(), ctx.needs_input_grad[:4]
    with torch.enable_grad():
        inputs = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]  # views: the graph ends at them
        log_z = _log_partition(_Chain(*inputs, *ctx.steps))
        chosen = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(log_z, chosen, d_log_z, create_graph=again, allow_unused=True))
    return [next(found) if want else None for want in wanted]


def _log_partition(chain: _Chain) -> Tensor:
    """log Z (N,) from forward messages as logarithms."""
    scores, transitions, start, end, counts, _ = chain
    if not scores.shape[1]:
        return scores.sum((1, 2))
    log_z = _logsumexp(_at_last(_log_messages(scores, transitions, start) + scores, counts) + end, 1)
    return log_z.masked_fill(counts == 0, 0)


def _log_marginals(chain: _Chain) -> Tensor:
    """The marginals (N, T, K) from both directions' messages as logarithms."""
    scores, transitions, start, end, counts, inside = chain
    if not scores.shape[1]:
        return scores
    behind = _log_messages(scores, transitions, start)
    ahead = _turned(_log_messages(_turned(scores, counts), transitions.T, end), counts)
    joint = behind + scores + ahead
    top = _logsumexp(joint, 2)[:, :, None]
    return (joint - top.masked_fill(top == -torch.inf, 0)).exp().masked_fill(~inside[:, :, None], 0)


def _log_messages(scores: Tensor, transitions: Tensor, start: Tensor) -> Tensor:
    """(N, T, K): the log of the sum of exp(score) over the paths to each tag, its own emission left out."""
    messages = [start.expand(scores.shape[0], -1)]
    for step in range(scores.shape[1] - 1):
        messages.append(_logsumexp((messages[-1] + scores[:, step])[:, :, None] + transitions, 1))
    return torch.stack(messages, 1)


def _logsumexp(values: Tensor, axis: int) -> Tensor:
    """torch.logsumexp whose first and second derivatives are zero, not NaN, where all values are −inf."""
    top = values.detach().amax(axis, keepdim=True)
    top = top.masked_fill(top == -torch.inf, 0)
    total = (values - top).exp().sum(axis)
    none = total == 0
    return (total.masked_fill(none, 1).log() + top.squeeze(axis)).masked_fill(none, -torch.inf)


def _best(chain: _Chain) -> tuple[Tensor, Tensor]:
    """The best path (N, T) and its score (N,). The tag before is looked for again on the way back, along the
    path alone: remembering it for all tags, as n paths must, takes several times as long.
    """
    scores, transitions, start, end, counts, inside = chain
    rows, steps, _ = scores.shape
    if not steps:  # the empty path is the only one
        return torch.empty(rows, 0, dtype=torch.int64, device=scores.device), scores.new_zeros(rows)
    best = [start + scores[:, 0]]  # (N, K)
    for step in range(1, steps):
        new = (best[-1][:, :, None] + transitions).amax(1) + scores[:, step]
        best.append(torch.where(inside[:, step, None], new, best[-1]))
    totals, place = (best[-1] + end).max(1)
    path = [place]
    for step in range(steps - 1, 0, -1):
        earlier = (best[step - 1] + transitions.T[place]).argmax(1)
        place = torch.where(inside[:, step], earlier, place)
        path.append(place)
    none = ~inside | (totals == -torch.inf)[:, None]
    return torch.stack(path[::-1], 1).masked_fill(none, -1), totals.masked_fill(counts == 0, 0)


def _viterbi(chain: _Chain, n: int) -> tuple[Tensor, Tensor]:
    """The n best paths (N, n, T) and their scores (N, n). A place is tag · n + rank among its tag's paths."""
    scores, transitions, start, end, counts, inside = chain
    rows, steps, _ = scores.shape
    only = torch.where(torch.arange(n, device=scores.device) == 0, 0.0, -torch.inf).to(scores.dtype)
    if not steps:  # the empty path is the only one
        return torch.empty(rows, n, 0, dtype=torch.int64, device=scores.device), only.repeat(rows, 1)
    best = (start + scores[:, 0])[:, :, None] + only  # (N, K, n)
    sources = []
    for step in range(1, steps):
        reached = (best[:, :, :, None] + transitions[:, None]).flatten(1, 2)  # (N, K · n, K)
        top, source = reached.topk(n, 1)
        new = top.transpose(1, 2) + scores[:, step, :, None]
        best = torch.where(inside[:, step, None, None], new, best)
        sources.append(source.transpose(1, 2).flatten(1))
    totals, place = (best + end[:, None]).flatten(1).topk(n, 1)
    path = [place // n]
    for step in range(steps - 1, 0, -1):
        earlier = sources[step - 1].gather(1, place)
        place = torch.where(inside[:, step, None], earlier, place)
        path.append(place // n)
    none = ~inside[:, None] | (totals == -torch.inf)[:, :, None]
    tags = torch.stack(path[::-1], 2).masked_fill(none, -1)
    return tags, torch.where(counts[:, None] > 0, totals, only)
