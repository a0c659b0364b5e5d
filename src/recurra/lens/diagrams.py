"""`diagram`: a network as a drawing with the shape of every tensor.

A drawing is an SVG of its own: no script, no font and no file besides, dark where the reader's system is
dark, and narrow enough for a telephone. Letters are those of `recurra.types`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

import recurra
from recurra.errors import ArgumentError
from recurra.lens.anatomy import (
    RECURRENT,
    Anatomy,
    Call,
    anatomy,
    call_of,
    is_recurrent,
    rows_in,
    rows_out,
    told,
)
from recurra.lens.drawing import arrow, box, document, fitted, line, shortened, words
from recurra.lens.unrolled import LEFT, MARGIN, RIGHT, WIDTH, table, unrolled

GAP = 42.0  # between two modules
MOST = 8  # modules other than recurrent ones in a row; of more, the first and the last three are drawn
CENTRE = (LEFT + RIGHT) / 2


Made: TypeAlias = dict[int, tuple[int, str, Tensor]]
"""Where memory lies → the place of the stage that wrote it, -1 for the input; the tensor's name; itself."""


@dataclass(frozen=True)
class Stage:
    """A module of a model, as it was called, or as it stands where the model was not run."""

    path: str
    module: torch.nn.Module
    calls: int = 0
    given: str = ""  # the shape of what it read
    source: str = ""  # where that comes from, in words; "" for all of what the stage before made
    near: bool = True  # it comes from the stage before
    more: str = ""  # what else it was given
    form: Anatomy | None = None  # of a recurrent one
    call: Call | None = None


def diagram(model: Any, input: Any = None, *, title: str | None = None, theme: str = "auto") -> str:
    """The drawing of a recurrent layer, or of a model with recurrent layers in it, as SVG.

    A layer is unrolled over time: the first two steps and the last, every direction, with the shapes of x,
    output and states; beneath it a table of what goes in and comes out, and where output and h_n hold the
    same numbers. Of more than four layers of the same size the first two and the last are drawn. A model is a
    column of its modules in the order of their first calls, the recurrent ones unrolled, with the shape of
    what each reads and where that comes from. It reads upwards.

    model: a layer or cell of recurra.nn or torch.nn, or any module that holds one.
    input: what it is to read: a tensor, a PackedSequence, or a shape such as (32, 50, 8); None for the
    letters N and T. A model is run on it once, in `eval` mode and without gradients; a shape is filled with
    zeros, whole ones where its first module is an `Embedding`. A tuple of other things is a model's arguments
    in their order, a dict its arguments by name. Without an input, a model's modules stand in the order in
    which they are registered. A layer alone is not run: its shapes follow from its options and the input's.
    title: what stands above it, else the class's name. theme: "auto", "light" or "dark".

    Raises ArgumentError for a model with no recurrent layer, for an input that does not fit or on which the
    model fails, and for a theme that there is not.

    For example::

        layer = torch.nn.LSTM(8, 128, num_layers=2, bidirectional=True, batch_first=True)
        Path("lstm.svg").write_text(diagram(layer, (32, 50, 8)), encoding="utf-8")
    """
    module = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    if not isinstance(module, torch.nn.Module) or not any(map(is_recurrent, module.modules())):
        what = type(model).__name__
        raise ArgumentError(
            "model: expected a recurrent layer of recurra.nn or torch.nn, or a module that holds one, got "
            f"{what}, which has none; give a layer such as torch.nn.LSTM(8, 16)"
        )
    if is_recurrent(module):
        form = anatomy(module)
        if isinstance(input, (tuple, list)) and input and isinstance(input[0], (Tensor, PackedSequence)):
            input = input if isinstance(input, PackedSequence) else input[0]  # x of (x, hx)
        return _alone(form, call_of(form, input), title, theme)
    return _column(module, *_stages(module, input), title, theme)


def _alone(form: Anatomy, call: Call, title: str | None, theme: str) -> str:
    """One recurrent module."""
    name = title or form.name
    parts = [words(MARGIN, 31, shortened(name, 44), "large"), *_facts(form, call, 51)]
    more, y = unrolled(form, call, 48 + 18 * (len(parts) - 1))
    rows, y = table(form, call, y + 18)
    return document([*parts, *more, *rows], WIDTH, y + 4, name, _story(form, call), theme)


def _facts(form: Anatomy, call: Call, y: float) -> list[str]:
    """The options, and the sizes."""
    layers, directions = len(form.layers), form.directions
    first = [] if form.kind == "cell" else [_count(layers, "layer"), _count(directions, "direction")]
    if form.kind != "cell":
        first.append(f"batch_first={form.batch_first}")
    if form.dropout and layers > 1:
        first.append(f"dropout {form.dropout:g}")
    first += form.options
    top = form.layers[0]
    sizes = {"N": call.rows, "T": None if form.kind == "cell" else call.steps, "F": top.reads}
    for state in top.states if form.kind != "stack" else ():
        sizes |= dict(zip(state.axes, state.sizes, strict=True))
    if form.kind != "cell":
        sizes |= {"L": layers, "D": directions}
    known = [f"{letter} {size}" for letter, size in sizes.items() if isinstance(size, int)]
    lines = [*_wrapped(first), *_wrapped(known)]
    return [words(MARGIN, y + 18 * rank, text, "small quiet") for rank, text in enumerate(lines)]


def _wrapped(pieces: Sequence[str]) -> list[str]:
    """Pieces in lines that the paper is wide enough for."""
    lines: list[str] = []
    for piece in pieces:
        longer = f"{lines[-1]} · {piece}" if lines else piece
        lines[-1:] = [longer] if len(longer) <= 64 else [*lines[-1:], piece]
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _story(form: Anatomy, call: Call) -> str:
    """The drawing in words, for who cannot see it."""
    size = "" if form.kind == "cell" else f" of {_count(len(form.layers), 'layer')}"
    size += (
        f" and {_count(form.directions, 'direction')}, unrolled over time"
        if form.kind != "cell"
        else ", one step"
    )
    told_in = ", ".join(f"{row.name} {told(row.shape)}" for row in rows_in(form, call))
    told_out = ", ".join(f"{row.name} {told(row.shape)}" for row in rows_out(form, call))
    return f"{form.name}{size}. Goes in: {told_in}. Comes out: {told_out}."


def _atoms(module: torch.nn.Module, path: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that are drawn: recurrent ones, those of torch and recurra, and what holds no other."""
    holder = isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict))
    library = type(module).__module__.startswith(("torch.nn.", "recurra.nn.")) and not holder
    whole = library and not any(map(is_recurrent, module.modules()))
    children = list(module.named_children())
    if is_recurrent(module) or whole or not (children or holder):
        yield path, module
        return
    for name, child in children:
        yield from _atoms(child, f"{path}.{name}" if path else name)


def _stages(model: torch.nn.Module, input: Any) -> tuple[list[Stage], str, bool]:
    """The modules in the order of their first calls, the shape of what the model returns, and whether the
    last of them made it.
    """
    atoms: dict[torch.nn.Module, str] = {}
    for path, module in _atoms(model):
        atoms.setdefault(module, path)
    if input is None:
        return [_standing(path, module) for module, path in atoms.items()], "", False
    stages: dict[torch.nn.Module, Stage] = {}
    made: Made = {}
    held: list[Any] = []  # keeps that memory from being used again while the model runs

    def note(module: Any, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        held.append((args, options, output))
        named_first = sorted(options, key=lambda name: name not in ("input", "x"))
        given = [*args, *(options[name] for name in named_first)]
        if module in stages:
            stages[module] = _again(stages[module])
        else:
            stages[module] = _called(atoms[module], module, given, made, list(stages.values()))
        place = list(stages).index(module)
        named = _named(stages[module].form, output)
        made.update({_memory(tensor): (place, label, tensor) for label, tensor in reversed(named)})

    args, options = _arguments(model, input)
    for tensor in _tensors((args, options)):
        made[_memory(tensor)] = -1, "", tensor
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in atoms]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            returned = model(*args, **options)
    except ArgumentError:
        raise
    except Exception as error:
        got = ", ".join(map(_brief, [*args, *options.values()])) or "nothing"
        raise ArgumentError(
            f"input: expected what {type(model).__name__} can be called with, got {got}, on which it raised "
            f"{type(error).__name__}: {shortened(str(error), 300)}; give an example input, or a tuple of "
            "all its arguments"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    given_back = _tensors(returned)
    last = bool(given_back) and _source(given_back[0], made, list(stages.values()))[1]
    return list(stages.values()), ", ".join(told(tuple(t.shape)) for t in given_back) or "nothing", last


def _standing(path: str, module: torch.nn.Module) -> Stage:
    if not is_recurrent(module):
        return Stage(path, module)
    form = anatomy(module)
    return Stage(path, module, form=form, call=call_of(form, None))


def _again(stage: Stage) -> Stage:
    return Stage(**(vars(stage) | {"calls": stage.calls + 1}))


def _called(path: str, module: Any, given: list[Any], made: Made, before: list[Stage]) -> Stage:
    """A module at its first call. given: its arguments. before: the stages before it."""
    form = anatomy(module) if is_recurrent(module) else None
    call = None if form is None or not given else call_of(form, given[0])
    tensors = _tensors(given)
    first = tensors[0] if tensors else None
    further = [made.get(_memory(tensor)) for tensor in tensors[1:]]
    names = [
        f"{label or 'output'} of {before[place].path}"
        for place, label, _ in filter(None, further)
        if place >= 0
    ]
    source, near, halves = _source(first, made, before)
    more = f"and {', '.join(dict.fromkeys(names))}" if names else halves
    return Stage(
        path,
        module,
        1,
        "" if first is None else told(tuple(first.shape)),
        source,
        near,
        more,
        form,
        call,
    )


def _source(tensor: Tensor | None, made: Made, before: list[Stage]) -> tuple[str, bool, str]:
    """Where a tensor comes from, in words; whether the last stage made it, or it is the input; a warning."""
    found = None if tensor is None else made.get(_memory(tensor))
    if tensor is None or found is None:
        return "made by other operations", False, ""
    place, label, whole = found
    part = "a part of " if tensor.numel() < whole.numel() else ""
    if place == len(before) - 1 and label in ("", "output", "h"):
        step = _step(before[place], tensor, whole) if part and label == "output" else None
        if step is not None:
            return f"output at step {step + 1}", True, _halves(before[place], step)
        return f"{part}{label or 'it'}" if part else "", True, ""
    if place < 0:
        return f"{part}the input", False, ""
    return f"{part}{label or 'output'} of {before[place].path}", False, ""


def _step(stage: Stage, tensor: Tensor, whole: Tensor) -> int | None:
    """Which step of a layer's output a tensor is, from 0; None where it is no single step."""
    form, call = stage.form, stage.call
    if form is None or call is None or call.packed is not None or form.kind == "cell" or form.apart:
        return None
    axis = 1 if form.batch_first and call.rows is not None else 0
    offset = int(tensor.storage_offset()) - int(whole.storage_offset())
    step, rest = divmod(offset, whole.stride(axis)) if whole.stride(axis) else (0, 1)
    if rest or step >= whole.shape[axis] or tensor.numel() * whole.shape[axis] != whole.numel():
        return None
    one = whole.select(axis, step).squeeze()
    alike = tensor.squeeze().shape == one.shape and tensor.squeeze().stride() == one.stride()
    return step if alike else None


def _halves(stage: Stage, step: int) -> str:
    """How far one of two directions is from its end at this step."""
    if stage.form is None or stage.call is None or stage.form.directions == 1:
        return ""
    steps = int(stage.call.steps)
    if step == steps - 1:
        return f"reverse has read 1 step of {steps}" if steps > 1 else ""
    return f"forward has read {step + 1} of {steps} steps"


def _memory(tensor: Tensor) -> int:
    """Where a tensor's memory lies, the same for its views; a mark of it where it has none, as on meta."""
    try:
        place = tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        place = 0
    return place or -id(tensor if tensor._base is None else tensor._base)


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in their order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, (tuple, list)) else []


def _named(form: Anatomy | None, output: Any) -> list[tuple[str, Tensor]]:
    """The tensors that a module returned, with the names that those of a recurrent one have."""
    tensors = _tensors(output)
    if form is None or form.kind == "cell":
        states = [state.name for state in form.layers[0].states] if form else []
        return list(zip(states or [""] * len(tensors), tensors, strict=False))
    ends = [f"{state.name}_n" for state in form.layers[0].states]
    if form.kind == "stack":
        ends = [f"states[{place}]" for place, layer in enumerate(form.layers) for _ in layer.states]
    return list(zip(["output"] * len(form.output_sizes) + ends, tensors, strict=False))


def _arguments(model: torch.nn.Module, input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the model is called with."""
    if isinstance(input, dict):
        return (), dict(input)
    if isinstance(input, PackedSequence) or not isinstance(input, (tuple, list)):
        return (input,), {}
    if not input or not all(type(size) is int for size in input):
        return tuple(input), {}
    if min(input) < 1:
        raise ArgumentError(
            f"input: expected a shape of sizes of 1 or more, got {tuple(input)}; give one such as (32, 50, 8)"
        )
    _, first = next(_atoms(model))
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    dtype = torch.long if isinstance(first, (torch.nn.Embedding, torch.nn.EmbeddingBag)) else weight.dtype
    return (torch.zeros(tuple(input), dtype=dtype, device=weight.device),), {}


def _brief(value: Any) -> str:
    return told(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _column(
    model: torch.nn.Module,
    stages: list[Stage],
    returned: str,
    made_last: bool,
    title: str | None,
    theme: str,
) -> str:
    """A model: its stages from below upwards, then the table of each recurrent one.

    returned: the shape of what it returns, "" where it was not run. made_last: the last stage made it.
    """
    name = title or type(model).__name__
    run = bool(returned)
    note = "Reads upwards, in the order of the calls."
    if any(stage.calls > 1 for stage in stages):
        note = "Reads upwards, in the order of the first calls, with their shapes."
    if not run:
        note = "In the order in which modules are registered."
    parts = [words(MARGIN, 31, shortened(name, 44), "large"), words(MARGIN, 51, note, "small quiet")]
    y, read = 70.0, run and made_last
    if run:
        parts.append(words(CENTRE, y + 12, "returns", "small quiet", "middle"))
        parts.append(fitted(CENTRE, y + 29, returned, "strong", "middle", WIDTH - 2 * MARGIN))
        parts.append(arrow([(CENTRE, y + 60), (CENTRE, y + 38)], "ink", "" if read else "dash"))
        y += 60 if read else 74
    for kept in reversed(_kept(stages)):
        if isinstance(kept, int):
            parts.append(words(CENTRE, y + 17, f"⋮  {_count(kept, 'module')} more", "quiet", "middle"))
            y += 26
            if run:
                parts.append(arrow([(CENTRE, y + 22), (CENTRE, y)], "ink"))
            y += 22
            continue
        y = _module(parts, kept, y, read)
        y = _gap(parts, kept, y, first=kept is stages[0], run=run)
        read = run and kept.near
    tables = []
    for stage in stages:
        if stage.form is None or stage.call is None:
            continue
        heading, start = f"{stage.path}: {stage.form.name}", y
        facts = _facts(stage.form, stage.call, y + 54)
        rows, y = table(stage.form, stage.call, y + 48 + 18 * len(facts))
        tables += [words(MARGIN, start + 34, shortened(heading, 44), "large"), *facts, *rows]
    story = f"{name}: " + ", then ".join(f"{stage.path}, {type(stage.module).__name__}" for stage in stages)
    told_all = [_story(stage.form, stage.call) for stage in stages if stage.form and stage.call]
    return document([*parts, *tables], WIDTH, y + 6, name, " ".join([f"{story}.", *told_all]), theme)


def _kept(stages: Sequence[Stage]) -> list[Stage | int]:
    """The stages that are drawn, and in the place of those left out of a long row how many they are."""
    kept: list[Stage | int] = []
    row: list[Stage] = []

    def close() -> None:
        kept.extend(row if len(row) <= MOST else [*row[:3], len(row) - 6, *row[-3:]])
        row.clear()

    for stage in stages:
        if stage.form is None:
            row.append(stage)
        else:
            close()
            kept.append(stage)
    close()
    return kept


def _module(parts: list[str], stage: Stage, y: float, read: bool) -> float:
    """A module's own drawing, and where it ends. read: whether what stands above reads its output."""
    name = type(stage.module).__name__ + (f" × {stage.calls}" if stage.calls > 1 else "")
    if stage.form is not None and stage.call is not None:
        parts.append(words(MARGIN, y + 14, shortened(name, 20), "strong"))
        parts.append(words(MARGIN, y + 30, shortened(stage.path, 28), "mono quiet"))
        parts += [line([(CENTRE, y + 42), (CENTRE, y)])] if read else []
        more, end = unrolled(stage.form, stage.call, y + 42)
        parts += more
        return end
    detail = stage.module.extra_repr() if hasattr(stage.module, "extra_repr") else ""
    height = 46.0 if detail else 30.0
    parts.append(box(LEFT - 4, y, RIGHT - LEFT + 8, height, "ink", 8))
    parts.append(words(LEFT + 6, y + 19.5, shortened(name, 22), "strong"))
    parts.append(fitted(RIGHT - 6, y + 19.5, shortened(stage.path, 30), "quiet", "end", 140))
    if detail:
        parts.append(words(LEFT + 6, y + 37, shortened(detail.replace("\n", " "), 46), "small quiet"))
    return y + height


def _gap(parts: list[str], stage: Stage, y: float, first: bool, run: bool) -> float:
    """What a module reads: an arrow from below, with its shape and where it comes from."""
    if not run:
        return y + (0 if first else 18)
    apart = not stage.near
    start = y + GAP - (14 if apart else 0)
    parts.append(arrow([(CENTRE, start), (CENTRE, y)], "ink", "dash" if apart else ""))
    parts.append(fitted(CENTRE + 12, y + 18, stage.given, "", "start", 190))
    if stage.source:
        parts.append(words(CENTRE - 12, y + 18, shortened(stage.source, 32), "small quiet", "end"))
    if stage.more:
        parts.append(words(CENTRE + 12, y + 34, shortened(stage.more, 36), "small quiet"))
    if first and not apart:
        parts.append(words(CENTRE, y + GAP + 13, "input", "small quiet", "middle"))
        return y + GAP + 18
    return y + GAP


def draw_in_notebooks(on: bool = True) -> bool:
    """Makes torch's own recurrent layers draw themselves, too, where IPython shows one as a cell's result.

    Those of recurra do so without it, where IPython runs when recurra is imported. on: False for none of
    them: then all are shown as text, as `repr` has them. `repr` itself stays as it is. Returns False where
    there is no IPython to tell.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None:
        return False
    formatter = shell.display_formatter.formatters["image/svg+xml"]
    for kind in RECURRENT:
        if on:
            formatter.for_type(kind, drawn)
        else:
            formatter.pop(kind, None)
    if not on:
        for name in recurra.DRAWN:
            formatter.pop(name, None)
    return True


def drawn(layer: torch.nn.Module) -> str | None:
    """The drawing of a layer for a notebook; a user's subclass may have its own.

    None, and so the `repr`, for a subclass whose options cannot be read.
    """
    own = getattr(type(layer), "_repr_svg_", None)
    try:
        return diagram(layer) if own is None else own(layer)
    except (ArgumentError, AttributeError):
        return None
