"""How long a recurrent network remembers: each unit by its gates and by measurement, and the whole network.

- `time_constants`: from the gate that keeps the state. A unit that keeps the share f of its state at each
  step has forgotten all but 1/e of it after τ = -1 / log f steps (Tallec & Ollivier, "Can recurrent neural
  networks warp time?", 2018, section 2; as measured here: Mahto, Vo, Turek & Huth, "Multi-timescale
  representation learning in LSTM language models", 2021, section 2.2).
- `half_life`: change the input or the initial state, run again, and see how the difference fades.
- `saturation`: how often a gate is shut or open (Karpathy, Johnson & Fei-Fei, "Visualizing and understanding
  recurrent networks", 2015, section 4.2), and units that never move.
- `compare`: any of these before and after training.

What is asked of a trace takes a Dataset of `recurra.lens.trace`; what is measured takes the model and its
inputs, as `trace` does. All give an `xarray.Dataset` with the dimensions layer, direction and unit. Steps
beyond a row's length count nowhere. Times are in steps of the module. How far back the whole network looks:
`recurra.lens.context`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from recurra.errors import ArgumentError
from recurra.lens.calls import Call, as_module, catch
from recurra.lens.optional import xarray_module
from recurra.lens.tracing import labelled
from recurra.nn.initial import learned_hx

if TYPE_CHECKING:
    import xarray

Array: TypeAlias = NDArray[Any]

PLACES = ("layer", "direction", "unit")
# gates that lie outside of 0 to 1, besides the candidate
_UNBOUNDED = {"mlstm": ("input",), "slstm": ("input", "forget")}


def time_constants(traced: xarray.Dataset) -> xarray.Dataset:
    """How many steps each unit keeps its state for, from the gate that keeps it.

    traced: what `recurra.lens.trace` returns. The share f that is kept is the forget gate's value; the update
    gate's of a GRU; what the update gate leaves of 1 in a MinGRU.

    Returns, for each layer, direction and unit, over all steps of all samples: `kept`, the mean of f;
    `time_constant`, -1 / log of it, in steps; and `geometric_time_constant`, -1 / mean of log f, which goes
    by what is left after all steps, so that a single step that forgets counts. Infinity where f = 1, 0 where
    f = 0, NaN for a unit without any step.

    Raises ArgumentError for a plain RNN, which has no such gate, and for an SLSTM, whose gates are relative
    to its stabiliser: measure their `half_life`.

    For example::

        times = time_constants(trace(layer, x))
        times["time_constant"].quantile([0.1, 0.5, 0.9], "unit")
    """
    kept, gates = None, _checked(traced).attrs["gates"]
    if traced.attrs["kind"] != "slstm" and "forget" in gates:
        kept = traced["forget"]
    elif "update" in gates:
        kept = traced["update"] if "reset" in gates else 1 - traced["update"]
    if kept is None:
        raise ArgumentError(
            "traced: expected a layer with a gate that says what share of the state is kept, got "
            f"{traced.attrs['class']}; measure its memory with recurra.lens.half_life"
        )
    with np.errstate(divide="ignore"):
        mean, mean_log = _mean(kept.values), _mean(np.log(kept.values))
        times = {"time_constant": -1 / np.log(mean), "geometric_time_constant": -1 / mean_log}
    # abs: log 1 is +0, and -1 / +0 would be -infinity
    variables = {"kept": mean} | {name: np.abs(values) for name, values in times.items()}
    return _dataset({name: (PLACES, values) for name, values in variables.items()}, traced)


def saturation(
    traced: xarray.Dataset, *, low: float = 0.1, high: float = 0.9, still: float = 1e-6
) -> xarray.Dataset:
    """How often each gate is shut or open, and which units are dead.

    traced: what `recurra.lens.trace` returns. low, high: a gate below is shut, above is open (those of
    Karpathy et al. 2015). still: a unit whose hidden state moves by no more, from its least to its greatest
    value over all steps of all samples, is dead.

    Returns for each layer, direction and unit: for each gate between 0 and 1, under its name, the share of
    steps at either `end` ("shut", "open"); `hidden_range`; and `dead`, True or False. Where the hidden state
    is projected, the last two have projection in the place of unit. A plain RNN has these two alone; neither
    the gate input of an MLSTM nor input and forget of an SLSTM are there, for they have no upper bound.

    Raises ArgumentError unless 0 ≤ low < high ≤ 1.

    For example::

        found = saturation(trace(layer, x))
        print(int(found["dead"].sum()), "dead units;", found["forget"].sel(end="open").mean("unit").values)
    """
    _checked(traced)
    if not 0 <= low < high <= 1:
        raise ArgumentError(
            f"low, high: expected 0 ≤ low < high ≤ 1, as gates lie there, got {low!r} and {high!r}; "
            "leave them out for 0.1 and 0.9"
        )
    variables: dict[str, Any] = {}
    for name in traced.attrs["gates"]:
        if name != "candidate" and name not in _UNBOUNDED.get(traced.attrs["kind"], ()):
            gate = traced[name].values
            ends = [np.where(np.isnan(gate), np.nan, end) for end in (gate < low, gate > high)]
            variables[name] = ((*PLACES, "end"), np.stack([_mean(end) for end in ends], axis=-1))
    hidden = traced["hidden"].values
    nothing = np.isnan(hidden).all((2, 3))
    most = np.where(np.isnan(hidden), -np.inf, hidden).max((2, 3), initial=-np.inf)
    least = np.where(np.isnan(hidden), np.inf, hidden).min((2, 3), initial=np.inf)
    moved = np.where(nothing, np.nan, np.where(nothing, 0, most) - np.where(nothing, 0, least))
    dims = (*PLACES[:2], traced["hidden"].dims[-1])
    variables |= {"hidden_range": (dims, moved), "dead": (dims, moved <= still)}
    return _dataset(variables, traced, {"low": low, "high": high, "still": still}, end=["shut", "open"])


def half_life(
    model: Any,
    *inputs: Any,
    module: str | None = None,
    call: int = 0,
    where: str = "input",
    at: int = 0,
    size: float = 0.1,
    draws: int = 4,
    seed: int = 0,
    **options: Any,
) -> xarray.Dataset:
    """In how many steps the trace of a change is half gone from each unit: measured, for any cell.

    The module is run as it was called, and again with its input, or its initial state, changed. The
    difference of a unit's state to the first run, absolute and over all samples and draws, is largest at
    once or, in a layer above, some steps later. From there it fades. With f the share that a unit keeps, and
    no way round through other units, it is half gone after log 0.5 / log f steps.

    model, inputs, options, module, call: as `recurra.lens.trace` has them.
    where: "input": a random direction is added to what the module reads at one step. "state": each unit's
        initial state, of an LSTM its cell state, is moved up or down at random.
    at: the step that is changed, in the order in which each direction reads a row; 0 for "state".
    size: how large the change is: of an input, relative to the root mean square of the inputs' norms; of a
        state, as it is. draws: how often it is drawn. seed: of the draws.

    Returns for each layer, direction and unit `hidden_half_life` and, where there is a cell state,
    `cell_half_life`, in steps: infinity where half was still there at the end, NaN where nothing changed.
    `hidden_fade` and `cell_fade` (layer, direction, lag, unit): what was left after so many steps, relative
    to the most there was; a lag counts the rows that are so long. Between two steps a half-life goes by a
    straight line through the logarithms. Where the hidden state is projected, it has projection for unit.

    Raises ArgumentError for arguments that make no sense, for a step that no row has, and for the state of a
    cell that has more states than h and c; and what `recurra.lens.trace` raises.

    For example::

        measured = half_life(layer, x, lengths=lengths)
        measured["cell_half_life"].sel(layer=0, direction="forward")
    """
    check_draws(size, draws)
    if where not in ("input", "state"):
        raise ArgumentError(f'where: expected "input" or "state", got {where!r}')
    if isinstance(at, bool) or not isinstance(at, int) or at < 0 or (where == "state" and at):
        raise ArgumentError(f'at: expected a step from 0 on, and 0 with where="state", got {at!r}')
    asked = as_module(model, inputs, options)
    caught = catch(asked.model, asked.inputs, asked.options, asked.path if module is None else module, call)
    caught = _padded_call(caught)
    before = labelled(caught)
    longest = int(before["length"].values.max(initial=0))
    if at >= longest:
        raise ArgumentError(f"at: expected a step that some row has, less than {longest}, got {at}")
    generator = torch.Generator().manual_seed(seed)

    def changes(direction: int, first: Array) -> Iterator[Call]:
        for _ in range(draws):
            if where == "input":
                yield _other_input(caught, first, before["length"].values, size, generator)
            else:
                yield _other_state(caught, direction, before.sizes["direction"], size, generator)

    variables: dict[str, Any] = {}
    for name, (fade, most) in _fades(before, at, changes).items():
        unit = before[name].dims[-1]
        variables[f"{name}_half_life"] = ((*PLACES[:2], unit), _halved(fade, most))
        variables[f"{name}_fade"] = ((*PLACES[:2], "lag", unit), fade)
    how = {"where": where, "at": at, "size": size, "draws": draws, "seed": seed}
    return _dataset(variables, before, how, lag=np.arange(longest - at))


def compare(before: xarray.Dataset, after: xarray.Dataset) -> xarray.Dataset:
    """Two Datasets of this module side by side, such as before and after training.

    Every variable gets a first dimension `training`: "before", "after", and "change", the difference. True
    counts as 1 and False as 0. What is infinite in both has no change: NaN.

    Raises ArgumentError where the two do not hold the same variables of the same sizes.

    For example::

        both = compare(time_constants(trace(fresh, x)), time_constants(trace(trained, x)))
        both["time_constant"].sel(training="change").median("unit")
    """
    told = [{name: dict(each[name].sizes) for name in each.data_vars} for each in (before, after)]
    if told[0] != told[1]:
        wrong = next(name for name in {**told[0], **told[1]} if told[0].get(name) != told[1].get(name))
        raise ArgumentError(
            f"after: expected the variables and sizes of before, but {wrong!r} has {told[0].get(wrong)} in "
            f"before and {told[1].get(wrong)} in after; measure one network on inputs of the same sizes"
        )
    variables: dict[Any, Any] = {}
    for name in before.data_vars:
        pair = [np.asarray(each[name].values, dtype=np.float64) for each in (before, after)]
        with np.errstate(invalid="ignore"):
            change = pair[1] - pair[0]
        variables[name] = (("training", *before[name].dims), np.stack([*pair, change]))
    stages = {"training": ["before", "after", "change"]}
    coordinates: dict[Any, Any] = {**before.coords, **stages}
    found: xarray.Dataset = xarray_module().Dataset(variables, coords=coordinates, attrs=before.attrs)
    return found


def check_draws(size: float, draws: int) -> None:
    if not size > 0:
        raise ArgumentError(f"size: expected a number above 0, such as 0.1, got {size!r}")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ArgumentError(f"draws: expected a whole number of at least 1, got {draws!r}")


def _checked(traced: Any) -> Any:
    if "gates" not in getattr(traced, "attrs", {}) or "hidden" not in traced:
        raise ArgumentError(
            f"traced: expected a Dataset as recurra.lens.trace returns it, got {type(traced).__name__}; "
            "give it trace(model, ...)"
        )
    return traced


def _dataset(
    variables: dict[str, Any], like: xarray.Dataset, how: dict[str, Any] | None = None, **coordinates: Any
) -> xarray.Dataset:
    """These variables on the layers, directions and units of a traced Dataset."""
    dims = {dim for named, _ in variables.values() for dim in named}
    own = {dim: like[dim].values for dim in (*PLACES, "projection") if dim in dims}
    attrs = {**like.attrs, **(how or {})}
    found: xarray.Dataset = xarray_module().Dataset(variables, coords={**own, **coordinates}, attrs=attrs)
    return found


def _mean(values: Array) -> Array:
    """(L, D, H): over samples and time, without NaN. NaN where there is nothing else."""
    there = ~np.isnan(values)
    count = there.sum((2, 3))
    total = np.where(there, values, 0).sum((2, 3), dtype=np.float64)
    mean: Array = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def _padded_call(call: Call) -> Call:
    """The same call with a padded batch as its only positional argument."""
    bound = inspect.signature(call.layer.trace).bind(*call.args, **call.options)
    (x, *hx), given = bound.args, dict(bound.kwargs)
    if hx:
        given["hx"] = hx[0]
    batch_first = call.layer.batch_first
    if isinstance(x, PackedSequence):
        x, given["lengths"] = pad_packed_sequence(x, batch_first=batch_first)
    elif x.dim() == 2:
        x = x.unsqueeze(0 if batch_first else 1)
        given["hx"] = _each_state(given.get("hx"), lambda state: state.unsqueeze(1))
    return replace(call, args=(x,), options=given)


def _each_state(hx: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of states, each changed."""
    if hx is None:
        return None
    return change(hx) if isinstance(hx, Tensor) else tuple(_each_state(state, change) for state in hx)


def _other_input(call: Call, at: Array, lengths: Array, size: float, generator: torch.Generator) -> Call:
    """The call with its input changed at step at[n] of row n, in no row where that is -1."""
    x, batch_first = call.args[0], call.layer.batch_first
    rows = x if batch_first else x.transpose(0, 1)
    changed = change_steps(rows, torch.from_numpy(at), torch.from_numpy(lengths), size, generator)
    return replace(call, args=(changed if batch_first else changed.transpose(0, 1),))


def change_steps(rows: Tensor, at: Tensor, ends: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """A copy of `rows` (N, T, ...), changed in row n at step at[n], where that is not below 0."""
    changed = rows.clone()
    row = (at >= 0).nonzero().squeeze(1)
    at, row = at[row].to(rows.device), row.to(rows.device)
    inside = (torch.arange(rows.shape[1]) < ends.cpu()[:, None]).to(rows.device)
    now = rows[row, at]
    if rows.dtype == torch.bool:
        changed[row, at] = ~now
    elif rows.is_floating_point():
        norms = rows[inside].flatten(1).norm(dim=1) if rows.dim() > 2 else rows[inside].abs()
        scale = float(norms.double().square().mean().sqrt()) if len(norms) else 0.0
        drawn = torch.randn(rows.shape[0], max(1, math.prod(rows.shape[2:])), generator=generator)
        drawn = (drawn / drawn.norm(dim=1, keepdim=True)).to(rows)[row]
        changed[row, at] = now + size * (scale or 1.0) * drawn.reshape(now.shape)
    else:
        known = torch.unique(rows[inside])
        if len(known) < 2:
            raise ArgumentError(
                "inputs: expected whole numbers of which some differ, to put one for another, "
                f"got {known.tolist()} alone; give a longer input"
            )
        further = torch.randint(1, len(known), now.shape, generator=generator).to(rows.device)
        changed[row, at] = known[(torch.searchsorted(known, now) + further) % len(known)]
    return changed


def _other_state(
    call: Call, direction: int, directions: int, size: float, generator: torch.Generator
) -> Call:
    """The call with the initial states of one direction moved: of an LSTM the cell state."""
    layer, x = call.layer, call.args[0]
    hx, learned = call.options.get("hx"), getattr(layer, "hx", "zeros") == "learned"
    if hx is None and learned and isinstance(layer, torch.nn.RNNBase):
        hx = learned_hx(layer, x)
    elif hx is None and learned:
        raise ArgumentError(
            "hx: expected the states to begin with, as they are learned here, got none; "
            'call the model with hx, or measure with where="input"'
        )
    elif hx is None:
        with torch.no_grad():
            hx = _each_state(layer(x)[1], torch.zeros_like)

    def moved(state: Tensor) -> Tensor:
        signs = 2.0 * torch.randint(0, 2, state.shape, generator=generator) - 1
        signs[torch.arange(len(signs)) % directions != direction] = 0
        return state + size * signs.to(state)

    def of_a_layer(state: Any) -> Any:
        if isinstance(state, Tensor):
            return moved(state)
        if len(state) != 2:
            raise ArgumentError(
                f'where: expected "input" for {call.name}, whose initial state is more than h and c, '
                'got "state"; leave it out'
            )
        return state[0], moved(state[1])

    changed = tuple(map(of_a_layer, hx)) if hasattr(layer, "layers") else of_a_layer(hx)
    return replace(call, options={**call.options, "hx": changed})


def _fades(
    before: xarray.Dataset, at: int, changes: Callable[[int, Array], Iterable[Call]]
) -> dict[str, list[Array]]:
    """What was left of each change, (L, D, lags, H), and the lag with the most, (L, D, H).

    Of the cell state, where there is one, and of the hidden state.

    changes: the changed calls, of a direction and of the step that is changed in each row, -1 in a row of
    too few steps.
    """
    names = [name for name in ("cell", "hidden") if name in before]
    lengths, steps = before["length"].values, before.sizes["time"]
    lags, rows = np.arange(lengths.max() - at), np.arange(len(lengths))[:, None]
    left: dict[str, list[tuple[Array, Array]]] = {name: [] for name in names}
    for direction in range(before.sizes["direction"]):
        first = np.where(lengths > at, lengths - 1 - at if direction else at, -1)
        times = first[:, None] + (-lags if direction else lags)
        there = (times >= 0) & (times < lengths[:, None]) & (first >= 0)[:, None]
        times = times.clip(0, steps - 1)
        moved: dict[str, Any] = dict.fromkeys(names, 0.0)
        for changed_call in changes(direction, first):
            after = labelled(changed_call)
            for name in names:
                apart = np.abs(after[name].values[:, direction] - before[name].values[:, direction])
                moved[name] = moved[name] + np.where(there[None, :, :, None], apart[:, rows, times], 0.0)
        for name in names:
            left[name].append(_fade(moved[name], there))
    return {name: [np.stack(part, axis=1) for part in zip(*each, strict=True)] for name, each in left.items()}


def _fade(moved: Array, there: Array) -> tuple[Array, Array]:
    """(L, lags, H) relative to the lag with the most, and that (L, H): from (L, N, lags, H), (N, lags) bool.

    Numerator and denominator are over the same rows: those that have both lags.
    """
    total = moved.sum(1)  # (L, lags, H)
    at_first = np.einsum("nk,lnh->lkh", there, moved[:, :, 0])
    to_first = np.divide(total, at_first, out=np.zeros_like(total), where=at_first > 0)
    # where nothing moves at once there is no first to compare with, but the mean over rows
    mean = total / np.maximum(there.sum(0), 1)[:, None]
    most = np.where(at_first[:, :1] > 0, to_first, mean).argmax(1)  # (L, H): the lag
    layer, unit = np.ogrid[: moved.shape[0], : moved.shape[3]]
    at_most = moved[layer, :, most, unit].transpose(0, 2, 1)  # (L, N, H)
    long_enough = there[:, most].transpose(1, 0, 2)  # (L, N, H)
    after = np.arange(there.shape[1])[None, :, None] >= most[:, None]
    above = np.where(after, total, np.einsum("lnkh,lnh->lkh", moved, long_enough))
    below = np.where(after, np.einsum("nk,lnh->lkh", there, at_most), at_most.sum(1)[:, None])
    share: Array = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return share, most


def _halved(fade: Array, most: Array) -> Array:
    """(L, D, H): steps from the most, at lag `most` (L, D, H), until half of it: from (L, D, lags, H)."""
    known = ~np.isnan(fade).all(2)
    filled = np.where(np.isnan(fade), 0.0, fade)
    lags = np.arange(fade.shape[2])[:, None]
    gone = (filled <= 0.5) & (lags > most[:, :, None])
    last = np.maximum(gone.argmax(2) - 1, 0)  # the last lag at which more than half was left
    ends = last, np.minimum(last + 1, len(lags) - 1)
    before, after = (np.take_along_axis(filled, end[:, :, None], 2)[:, :, 0] for end in ends)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.log(before / 0.5) / np.log(before / after)
    steps = np.where(gone.any(2), last + part - most, np.inf)
    return np.where(known, steps, np.nan)
