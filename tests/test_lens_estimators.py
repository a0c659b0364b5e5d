"""The lens on a fitted Classifier, Tagger and LanguageModel: their own data, their own names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_classifiers
import torch
from rhymes import rhymes
from tag_samples import columns, sentences

pytest.importorskip("xarray", reason="the lens needs xarray: pip install 'recurra[lens]'")
pytest.importorskip("captum", reason="attribution needs Captum: pip install 'recurra[lens]'")

import recurra
from recurra import lens
from recurra.errors import ArgumentError, DataError
from recurra.lens import estimators
from recurra.lens.estimators import START, passages, view_of
from recurra.lens.readers import own_names

GOOD, BAD = "Truly fine and warm, I say", "dull"
WORDS = [["Ada", "left", "New", "York", "."], ["Bob", "saw", "Quux"]]
TEXTS = ["The cat sees a Qµ", "a bird"]


@dataclass
class Case:
    """A fitted estimator and data that it was not fitted on."""

    model: Any
    data: Any
    names: list[list[str]] | None
    path: str
    target: Any


@pytest.fixture(scope="module")
def labels() -> Any:
    return tiny_classifiers.of_texts(hidden_size=7, epochs=3)


@pytest.fixture(scope="module")
def numbers() -> Any:
    return tiny_classifiers.of_numbers()


@pytest.fixture(scope="module")
def tagger() -> Any:
    return recurra.Tagger(hidden_size=7, embedding_size=9, epochs=7, seed=1).fit(sentences(63))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("rhymes") / "rhymes.txt"
    path.write_text(rhymes(63))
    return recurra.LanguageModel(hidden_sizes=(17, 9), window=7, streams=3, epochs=2, seed=3).fit(path)


@pytest.fixture(params=["labels", "numbers", "tagger", "writer"])
def case(request: pytest.FixtureRequest) -> Case:
    model = request.getfixturevalue(request.param)
    steps = [np.linspace(-1, 1, 9)[:, None] * [1, 2], np.linspace(1, -1, 7)[:, None] * [1, -1]]
    found: dict[str, tuple[Any, Any, str, Any]] = {
        "labels": (
            [GOOD, BAD],
            [["Truly", "fine", "and", "warm", ",", "I", "say"], ["dull"]],
            "readers.0.lstm",
            "good",
        ),
        "numbers": (steps, None, "readers.0.lstm", 1),
        "tagger": (WORDS, WORDS, "lstm", (1, "O")),
        "writer": (TEXTS, [[START, *text] for text in TEXTS], "layers.0", "c"),
    }
    return Case(model, *found[request.param])


def test_a_trace_is_the_layers_own_with_the_users_names(case: Case) -> None:
    view = view_of(case.model)
    assert view is not None
    inputs, lengths = estimators.batch_of(view.read(case.data))
    layer: Any = view.network.get_submodule(case.path)
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        view.network(*inputs, lengths=lengths)
        own = layer.trace(seen[0], lengths=lengths)
    handle.remove()
    traced = lens.trace(case.model, case.data)
    assert traced.attrs["module"] == case.path
    assert traced["length"].values.tolist() == lengths.tolist()
    for place, one in enumerate(own):
        here = traced.isel(layer=one.layer, direction=int(one.reverse))
        for name in one.gate_names:
            got = np.nan_to_num(here[name].values)
            np.testing.assert_allclose(got, one.gate(name).numpy(), atol=1e-6, err_msg=f"{name} {place}")
    if case.names is not None:
        assert [
            row[: len(own)].tolist() for row, own in zip(traced["label"].values, case.names, strict=True)
        ] == case.names
    assert len(set(traced["sample"].values.tolist())) == 2
    every = lens.trace_all(case.model, case.data)
    assert list(every) == list(lens.recurrent_modules(case.model))
    last = list(every)[-1]
    assert lens.trace(case.model, case.data, module=last).attrs["module"] == last


def test_the_rest_of_the_lens_takes_the_same_data(case: Case) -> None:
    traced = lens.trace(case.model, case.data)
    assert np.isfinite(lens.time_constants(traced)["time_constant"].values).all()
    assert lens.half_life(case.model, case.data, draws=1)["cell_half_life"].shape[-1] == traced.sizes["unit"]
    found = lens.effective_context(case.model, case.data, draws=1)
    assert found["relative"].values[0] == 1
    flow = lens.gradient_flow(case.model, case.data)
    assert set(flow.states) == set(lens.recurrent_modules(case.model))
    assert all(verdict.word != "none" for verdict in flow.verdicts)
    effect = lens.what_if(case.model, case.data, edits=[lens.Edit("hidden", to=0.0)])
    assert effect.change.abs().max() > 0
    pattern = lens.marked(traced.isel(sample=[0]), [(0, 1, 3)])
    assert lens.best(lens.units_following(traced.isel(sample=[0]), pattern), 3)


@pytest.mark.parametrize("usual", [True, False])
def test_integrated_gradients_are_complete_and_named(case: Case, usual: bool) -> None:
    target = (1 if isinstance(case.model, recurra.Tagger) else None) if usual else case.target
    found = lens.integrated_gradients(case.model, case.data, target=target, steps=200)
    whole = found["output"].values - found["baseline_output"].values
    assert np.abs(found["gap"].values).max() < 1e-3 * max(1, np.abs(whole).max())
    if case.names is not None:
        for row, own in zip(found["label"].values, case.names, strict=True):
            assert row[: len(own)].tolist() == own
        beyond = found["attribution"].values[found["label"].values == ""]
        assert (beyond == 0).all()


def test_a_classifiers_answer_is_that_of_predict(labels: Any) -> None:
    effect = lens.what_if(labels, [GOOD, BAD], edits=[lens.Edit("hidden", to=0.0)])
    np.testing.assert_allclose(effect.before.softmax(1), labels.predict([GOOD, BAD]).probabilities, atol=1e-6)


def test_a_covered_word_is_gone_from_the_n_grams_too(labels: Any) -> None:
    found = lens.occlusion(labels, ["kind and fine", "grim"], target="good")

    def logit(text: str) -> float:
        chances = labels.predict([text]).probabilities[0]
        return float(np.log(chances[1]) - np.log(chances).mean())

    assert logit("kind and fine") == pytest.approx(float(found["output"][0]), abs=1e-4)
    wide = view_of(labels)
    assert isinstance(wide, estimators.LabelView)
    both = wide.read(["kind and fine", "kind and "])
    read = _quietly(wide.network)(
        torch.tensor([[*both[0].values[:2], 0]]),
        torch.from_numpy(both[0].wide)[None],
        torch.tensor([both[0].number]),
    )
    kept = float(found["output"][0] - found["attribution"][0, 2])
    assert float(read[0, 1] - read.mean()) == pytest.approx(kept, abs=1e-4)
    stale = labels._network().mixture[0] * torch.from_numpy(both[0].wide - both[1].wide)
    assert stale.abs().max() > 1e-3


def test_a_tags_answer_is_its_probability(tagger: Any) -> None:
    found = lens.integrated_gradients(tagger, WORDS, target=0, steps=8)
    tags = tagger.predict(WORDS)
    view = view_of(tagger)
    assert isinstance(view, estimators.TagView)
    for row, sure in enumerate(tags.probabilities):
        if tags.tags[row][0] == view.names[int(view.shares(_scores(view, row))[0, 0].argmax())]:
            assert np.exp(found["output"].values[row]) == pytest.approx(sure[0], abs=1e-5)
    one = tagger.predict([WORDS[1]])
    np.testing.assert_allclose(
        view.shares(_scores(view, 1))[0].max(1).values.detach(), one.probabilities[0], atol=1e-2
    )


def _quietly(network: torch.nn.Module) -> Callable[..., torch.Tensor]:
    return torch.no_grad()(network.forward)


def _scores(view: Any, row: int) -> torch.Tensor:
    (one,) = view.read([WORDS[row]])
    with torch.no_grad():
        return view.network(torch.from_numpy(one.values)[None])


def test_a_language_models_answer_is_what_generate_draws_from(writer: Any) -> None:
    (text,) = ["The cat "]
    effect = lens.what_if(writer, [text], edits=[lens.Edit("hidden", to=0.0)])
    likeliest = writer.generate(text, length=1, top_k=1)[-1]
    known = effect.before[0].clone()
    known[[0, 1]] = -np.inf  # padding and unknown are never drawn
    assert writer.tokenizer.tokens[int(known.argmax())] == likeliest


def test_paths_are_read_as_predict_reads_them(labels: Any, tagger: Any, writer: Any, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,label\nkind and warm,good\ndull,bad\n")
    (tmp_path / "tags.conll").write_text(columns(sentences(3, seed=1)))
    (tmp_path / "text.txt").write_text(rhymes(33, seed=1))
    assert lens.trace(labels, tmp_path / "texts.csv")["length"].values.tolist() == [3, 1]
    assert lens.trace(tagger, str(tmp_path / "tags.conll")).sizes["sample"] == 3
    traced = lens.trace(writer, tmp_path / "text.txt")
    pieces = passages(rhymes(33, seed=1))
    assert "\n".join(pieces).rstrip("\n") == rhymes(33, seed=1).rstrip("\n")
    assert len(pieces) > 1
    assert traced["length"].values.tolist() == [1 + len(piece) for piece in pieces]
    assert lens.trace(tagger, ["Ada left Bath"])["time"].values.tolist() == ["Ada", "left", "Bath"]


def test_like_texts_are_told_apart_by_number(labels: Any) -> None:
    assert lens.trace(labels, ["dull", "dull"])["sample"].values.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda c, t, w: lens.integrated_gradients(c, [GOOD], target="fair"),
            "a class, one of 'bad', 'good'",
        ),
        (lambda c, t, w: lens.integrated_gradients(c, [GOOD], target=2), "from 0 to 1, got 2"),
        (lambda c, t, w: lens.occlusion(c, [GOOD], target=["good", "bad"]), "each of the 1 rows, got 2"),
        (lambda c, t, w: lens.occlusion(t, WORDS, target=3), "a word from 0 to 2"),
        (lambda c, t, w: lens.occlusion(t, WORDS), r"\(word, tag\), got None"),
        (lambda c, t, w: lens.occlusion(t, WORDS, target=(0, "B-X")), "a tag, one of"),
        (lambda c, t, w: lens.occlusion(w, TEXTS, target="the"), "one token that the model knows"),
        (lambda c, t, w: lens.occlusion(w, TEXTS, target=6363), "a token, one of"),
        (lambda c, t, w: lens.trace(c, [GOOD], [BAD]), "the data alone"),
        (lambda c, t, w: lens.trace(c, [""]), "some word or number"),
        (lambda c, t, w: lens.trace(recurra.Classifier(), [GOOD]), "fitted Classifier"),
        (lambda c, t, w: lens.trace(recurra.Tagger(), WORDS), "fitted Tagger"),
        (lambda c, t, w: lens.recurrent_modules("net"), "Classifier, Tagger or LanguageModel, got str"),
        (lambda c, t, w: lens.trace(c, [GOOD], module="lstm"), "readers.0.lstm"),
    ],
)
def test_what_cannot_be_asked(
    call: Callable[..., Any], expected: str, labels: Any, tagger: Any, writer: Any
) -> None:
    with pytest.raises(ArgumentError, match=expected):
        call(labels, tagger, writer)


def test_data_that_do_not_fit_are_refused(labels: Any, numbers: Any, monkeypatch: Any) -> None:
    with pytest.raises(DataError, match="expected texts"):
        lens.trace(labels, [np.zeros((5, 2))])
    with pytest.raises(DataError, match="expected sequences"):
        lens.trace(numbers, [GOOD])
    with pytest.raises(DataError, match="3 numbers in a step"):
        lens.trace(numbers, [np.zeros((5, 3))])
    monkeypatch.setattr(estimators, "MOST_STEPS", 13)
    with pytest.raises(ArgumentError, match="at most 13 steps at once, got 2 samples of up to 7"):
        lens.trace(labels, [GOOD, BAD])


def test_a_long_text_is_named_by_what_is_read_of_it(labels: Any) -> None:
    longest = labels.plan.longest
    text = " ".join(f"w{place}" for place in range(longest + 33))
    steps = lens.trace(labels, [text])["time"].values.tolist()
    assert (len(steps), steps[0], steps[-1]) == (longest, "w0", f"w{longest + 32}")


def test_names_are_as_the_user_wrote_them() -> None:
    assert own_names("The CAT's, é", ["the", "cat's", ",", "é"]) == ("The", "CAT's", ",", "é")
    assert own_names("İst", ["i̇st"]) == ("i̇st",)  # longer in small letters: the places cannot be told
    assert own_names("ab", ["b", "a"]) == ("b", "a")
