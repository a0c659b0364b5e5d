"""Language models: the network, its training on streams, the estimator, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rhymes import rhymes
from torch.nn import functional

from recurra import Forecaster, LanguageModel, checkpoint, load, train
from recurra.errors import ArgumentError, DataError, Interrupted, ModelFileError
from recurra.tasks import generate as module
from recurra.tasks.generate_network import LanguageNetwork, Streams, Window, Windows, surprise
from recurra.tasks.generate_plan import AWD, choose_plan, passes
from recurra.tasks.generate_scores import baselines, by_frequency, own_baselines, positions

TINY: dict[str, Any] = {"hidden_sizes": 17, "window": 7, "streams": 3, "epochs": 2}
TEXT = rhymes(63)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "rhymes.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def model(text_file: Path) -> LanguageModel:
    return LanguageModel(**{**TINY, "epochs": 5, "learning_rate": 0.02}, seed=3).fit(text_file)


def network(**options: Any) -> LanguageNetwork:
    return LanguageNetwork(11, 7, (9, 7), **options)


def test_a_text_in_pieces_is_the_text_as_a_whole() -> None:
    net, tokens = network().eval(), torch.randint(11, (3, 33))
    whole, _ = net(tokens)
    states, parts = None, []
    for piece in tokens.split((1, 7, 1, 24), 1):
        logits, states = net(piece, states)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_the_output_shares_the_embedding() -> None:
    tied, own = network(), LanguageNetwork(11, 7, (9, 33), tied=False)
    assert tied.output is None
    assert own.output is not None
    hidden = torch.randn(2, 7)
    torch.testing.assert_close(tied.logits(hidden), hidden @ tied.embedding.weight.T + tied.bias)
    with pytest.raises(ValueError, match="expected the last to be embedding_size"):
        LanguageNetwork(11, 7, (9, 8))
    with pytest.raises(ValueError, match="dropouts: expected numbers from 0 to below 1"):
        network(output_dropout=1.0)


def test_dropout_is_one_mask_for_all_steps_of_a_stream() -> None:
    net = network(output_dropout=0.5)
    dropped, raw, _ = net.hidden(torch.randint(11, (3, 33)))
    kept = (dropped != 0) | (raw == 0)
    assert (kept == kept[:, :1]).all()
    assert 0 < kept.float().mean() < 1
    torch.testing.assert_close(dropped[kept], 2 * raw[kept])
    words = network(embedding_dropout=0.5)
    words.layers = torch.nn.ModuleList()  # what the embedding gives is what comes out
    found, _, _ = words.hidden(torch.arange(11)[None])
    assert set((found != 0).all(2)[0].tolist()) == {True, False}
    net.eval()
    assert torch.equal(*net.hidden(torch.randint(11, (1, 7)))[:2])


def test_streams_carry_their_state_and_begin_afresh() -> None:
    net = network()
    streams = Streams(net, 3)
    tokens = torch.randint(11, (3, 15))
    fresh = [torch.tensor([True] * 3), torch.tensor([False, True, False])]
    windows = [
        Window(tokens[:, a:b], tokens[:, a + 1 : b + 1], which)
        for (a, b), which in zip(((0, 7), (7, 14)), fresh, strict=True)
    ]
    losses = [streams.loss(window) for window in windows]
    logits, _ = net(tokens[:, :14])
    logits = logits[:, 7:].clone()
    logits[1] = net(tokens[1:2, 7:14])[0][0]
    expected = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 8:].flatten())
    torch.testing.assert_close(losses[1], expected)
    assert not streams.h_0.requires_grad
    torch.testing.assert_close(streams.loss(windows[0]), losses[0])
    assert {"h_0", "c_1"} <= streams.state_dict().keys()


def test_costs_pull_at_the_gradient_and_not_at_the_value() -> None:
    net, tokens = network(), torch.randint(11, (3, 8))
    window = Window(tokens[:, :-1], tokens[:, 1:], torch.ones(3, dtype=torch.bool))
    gradients = []
    for activity, change in ((0.0, 0.0), (2.0, 1.0)):
        net.zero_grad()
        loss = Streams(net, 3, activity, change).loss(window)
        loss.backward()
        gradients.append((loss.item(), net.layers[1].weight_hh_l0.grad.clone()))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-6)
    hidden, raw, _ = net.hidden(tokens[:, :-1])
    net.zero_grad()
    (2 * hidden.square().mean() + (raw[:, 1:] - raw[:, :-1]).square().mean()).backward()
    torch.testing.assert_close(gradients[1][1] - gradients[0][1], net.layers[1].weight_hh_l0.grad)


@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("count", [33, 1000, 4097])
def test_windows_hold_each_stream_once_and_in_order(varied: bool, count: int, seed: int) -> None:
    windows = Windows(np.arange(count), 3, 7, varied)
    found = list(windows(torch.Generator().manual_seed(seed)))
    tokens = torch.cat([window.tokens for window in found], 1)
    assert (tokens[:, 1:] - tokens[:, :-1] == 1).all()
    assert tokens[1, 0] == tokens[0, -1] + 1
    assert tokens.numel() > 0.85 * count - 10
    assert all(torch.equal(window.targets, window.tokens + 1) for window in found)
    assert [window.fresh.all().item() for window in found] == [True] + [False] * (len(found) - 1)
    assert not any(window.fresh.any() for window in found[1:])
    assert len(windows) == pytest.approx(len(found), rel=0.3 if varied else 0, abs=1)
    if varied and count > 100:
        assert len({window.rate for window in found}) > 3
    again = list(windows(torch.Generator().manual_seed(seed)))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(found, again, strict=True))


def test_streams_begin_anew_now_and_then(seed: int) -> None:
    windows = list(Windows(np.arange(9999), 7, 3, resets=0.1)(torch.Generator().manual_seed(seed)))
    assert windows[0].fresh.all()
    later = torch.stack([window.fresh for window in windows[1:]]).float()
    assert later.mean() == pytest.approx(0.1, abs=0.025)
    assert later.any(0).all()


def test_surprise_is_that_of_one_stream() -> None:
    net, numbers = network(input_dropout=0.5), np.random.default_rng(0).integers(0, 11, 700)
    nats = surprise(net, numbers, start=2)
    assert net.training
    with torch.no_grad():
        logits, _ = net.eval()(torch.from_numpy(np.append(2, numbers[:-1]))[None])
    expected = functional.cross_entropy(logits[0], torch.from_numpy(numbers), reduction="none")
    np.testing.assert_allclose(nats, expected.numpy(), rtol=1e-4)
    side_by_side = surprise(net, numbers, start=2, streams=3)
    np.testing.assert_allclose(side_by_side[:100], nats[:100], rtol=1e-4)
    assert side_by_side.mean() == pytest.approx(nats.mean(), rel=0.02)


def test_it_learns(model: LanguageModel, text_file: Path) -> None:
    held = TEXT[int(0.9 * len(TEXT)) :]
    (numbers,) = model.tokenizer.encode([TEXT[: int(0.9 * len(TEXT))]])
    (judged,) = model.tokenizer.encode([held])
    score = model.evaluate(held.encode())["nats_per_token"]
    assert score < 0.8 * baselines(numbers, judged, model.tokenizer)["unigrams"]
    assert [row["epoch"] for row in model.history] == [1, 2, 3, 4, 5]
    assert model.history[-1]["valid_loss"] < model.history[0]["valid_loss"]


def test_scores_are_the_protocols(model: LanguageModel) -> None:
    text = "The cat sees the moon.\nThe end"
    found = model.score(text)
    scores = found.scores()
    assert scores["tokens"] == scores["characters"] == len(text)
    assert scores["nats_per_token"] == pytest.approx(found.nats.mean())
    assert scores["perplexity"] == pytest.approx(math.exp(found.nats.mean()))
    assert scores["bits_per_character"] == pytest.approx(found.nats.sum() / math.log(2) / len(text))
    assert scores == model.evaluate(text.encode())
    lines = model.predict(text.encode())
    assert [row["line"] for row in lines] == [1, 2]
    assert lines[1]["nats_per_token"] == pytest.approx(model.score("The end").nats.mean())


def test_words_count_the_close_of_a_line(text_file: Path) -> None:
    model = LanguageModel("word", **TINY).fit(text_file)
    scores = model.evaluate(b"The cat sees the moon\nMy zzz\n")
    assert (scores["tokens"], scores["unknown"], scores["characters"]) == (9, 1, 21 + 1 + 6 + 1)
    assert "<" not in model.generate("The", length=33)
    assert model.generate("The", length=33).startswith("The ")


@pytest.mark.parametrize("tokens", ["character", "bpe", "blank"])
def test_poems_are_learnt_one_by_one_and_end(tokens: str) -> None:
    poems = ["春眠不覺曉，處處聞啼鳥。", "夜來風雨聲，花落知多少。", "紅豆生南國，春來發幾枝。"] * 11
    model = LanguageModel(tokens, **{**TINY, "learning_rate": 0.05}).fit(poems, valid=poems[:3])
    found = model.generate("春", length=400)
    assert found.startswith("春")
    assert "<eos>" not in found
    assert len(model.tokenizer.encode([found])[0]) < 400
    assert model.predict(poems[:2])[1]["text"] == poems[1]


def test_saved_and_loaded_it_is_the_same(model: LanguageModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert isinstance(again, LanguageModel)
    how: dict[str, Any] = {"length": 33, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 4}
    assert again.generate("The ", **how) == model.generate("The ", **how)
    assert again.generate("The ", **{**how, "seed": 5}) != model.generate("The ", **how)
    assert again.history == model.history
    assert again.plan == model.plan
    assert again.numbers == model.numbers
    assert np.array_equal(again.counts, model.counts)


def test_generating_is_reading_what_was_written(model: LanguageModel) -> None:
    text = model.generate("The c", length=33, temperature=0)
    found = model.score(text)
    network = model._network()
    assert len(text) == 5 + 33
    numbers = torch.from_numpy(np.append(model.tokenizer.encode(["\n"])[0], found.numbers))[None]
    with torch.no_grad():
        logits, _ = network(numbers[:, :-1])
    logits[:, :, :2] = -math.inf
    assert torch.equal(logits[0, 5:].argmax(1), numbers[0, 6:])


def test_the_stream_comes_a_piece_at_a_time(model: LanguageModel) -> None:
    pieces = list(model.stream("The", length=33, seed=1))
    assert len(pieces) == 33
    assert "The" + "".join(pieces) == model.generate("The", length=33, seed=1)


@pytest.mark.parametrize("prompt", ["", "🙂🙂", "\x1b[31m\x00", "\udcff", "<eos>", "The" * 999])
def test_any_prompt_is_gone_on_from(model: LanguageModel, prompt: str) -> None:
    assert len(list(model.stream(prompt, length=7))) == 7


def test_unknown_tokens_are_named(model: LanguageModel) -> None:
    assert model.unknown("The 🙂 of Zoë 🙂") == ["🙂", "Z", "ë"]
    assert model.score("The 🙂").unknown == 1


def test_the_same_seed_gives_the_same_weights(text_file: Path) -> None:
    first, again, other = (LanguageModel(**TINY, seed=s).fit(text_file) for s in (1, 1, 2))
    weights = [m._network().state_dict() for m in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["embedding.weight"], weights[2]["embedding.weight"])


class Killed(Exception):
    pass


@pytest.mark.parametrize("recipe", ["adamw", "awd"])
def test_killed_and_run_again_it_ends_with_the_same_weights(
    recipe: str, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = train.fit
    monkeypatch.setattr(train, "fit", lambda *a, **k: fit(*a, **k, save_every_steps=5))
    monkeypatch.setattr("os.fsync", lambda handle: None)
    arguments: dict[str, Any] = {**TINY, "recipe": recipe, "dropout": 0.3}
    if recipe == "awd":
        arguments["learning_rate"] = 1.0
    expected = LanguageModel(**arguments).fit(text_file)
    read, left = Windows.__call__, [17]

    def killing(self: Windows, generator: torch.Generator) -> Iterator[Window]:
        for window in read(self, generator):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            yield window

    monkeypatch.setattr(Windows, "__call__", killing)
    for after in (17, 23, 133):
        left[0] = after
        with pytest.raises(Killed):
            LanguageModel(**arguments).fit(text_file, checkpoints=tmp_path)
    left[0] = 10**6
    found = LanguageModel(**arguments).fit(text_file, checkpoints=tmp_path)
    weights = expected._network().state_dict()
    assert all(torch.equal(weights[n], value) for n, value in found._network().state_dict().items())
    timeless = [[{**row, "seconds": 0} for row in m.history] for m in (expected, found)]
    assert timeless[0] == timeless[1]
    with pytest.raises(ArgumentError, match="written by a run with"):
        LanguageModel(**{**arguments, "dropout": 0.4}).fit(text_file, checkpoints=tmp_path)


def test_minutes_end_the_training(text_file: Path) -> None:
    rows: list[dict[str, Any]] = []
    arguments = {**TINY, "epochs": None, "minutes": 0.6 / 60}
    model = LanguageModel(**arguments).fit(text_file, log=rows.append)
    assert 0.4 < sum(row["seconds"] for row in model.history) < 20
    assert model.history[-1]["learning_rate"] < 1e-3
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))


def test_plans_suit_the_text_and_the_time() -> None:
    short, long = choose_plan(10_000, 65), choose_plan(1_000_000, 65)
    assert short.hidden_sizes < long.hidden_sizes
    assert not long.tied
    words = choose_plan(929_589, 10_000)
    assert words.tied
    assert words.embedding_size == words.hidden_sizes[-1]
    hurried, patient = (choose_plan(1_000_000, 65, minutes=m) for m in (0.5, 60))
    assert hurried.hidden_sizes < patient.hidden_sizes
    assert passes(patient, 1_000_000, 65) > passes(hurried, 1_000_000, 65) > 2
    brief, evening = (choose_plan(929_589, 10_000, minutes=m) for m in (3, 120))
    assert (evening.hidden_sizes, evening.streams, evening.window) == ((800, 400), 32, 35)
    assert brief.hidden_sizes < words.hidden_sizes < evening.hidden_sizes
    assert brief.streams == words.streams == 8, "few tokens are to be read: many small steps"
    awd = choose_plan(929_589, 10_000, recipe="awd")
    assert awd == AWD
    assert sum(4 * h * (b + h + 2) for b, h in ((400, 1150), (1150, 1150), (1150, 400))) + 400e4 + 1e4 == (
        pytest.approx(24.2e6, rel=0.01)  # weights, as the paper has it
    )


def test_products_are_in_bfloat16_where_the_time_is_given_and_words_are_many() -> None:
    quick = choose_plan(929_589, 10_000, minutes=60, bfloat16=True)
    assert quick.precision == "bf16-mixed"
    assert {
        choose_plan(929_589, 10_000, bfloat16=True).precision,
        choose_plan(929_589, 10_000, minutes=60).precision,
        choose_plan(929_589, 65, minutes=60, bfloat16=True).precision,
    } == {"32-true"}
    exact = dataclasses.replace(quick, precision="32-true")
    assert passes(quick, 929_589, 10_000) > passes(exact, 929_589, 10_000)


def test_before_it_learns_each_token_is_as_likely_as_it_is_frequent(model: LanguageModel) -> None:
    start = model._build()
    known = torch.from_numpy(model.counts) + 1.0
    torch.testing.assert_close(start.bias.softmax(0), known / known.sum())
    assert not torch.equal(start.bias, model._network().bias)


def test_in_bfloat16_it_learns_alike_and_resumes_exactly(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(precision: str, folder: Path | None = None) -> LanguageModel:
        model = LanguageModel(**TINY, seed=7)
        planned = model.planned
        monkeypatch.setattr(
            model, "planned", lambda count: dataclasses.replace(planned(count), precision=precision)
        )
        return model.fit(text_file, checkpoints=folder)

    exact, low = trained("32-true"), trained("bf16-mixed")
    assert {weight.dtype for weight in low._network().parameters()} == {torch.float32}
    assert not torch.equal(low._network().bias, exact._network().bias)
    first, second = (one.history[-1]["valid_loss"] for one in (exact, low))
    assert second == pytest.approx(first, rel=0.02)
    seen: list[Window] = []
    read = Windows.__call__

    def killing(self: Windows, generator: torch.Generator) -> Iterator[Window]:
        for window in read(self, generator):
            if len(seen) == 7:
                raise KeyboardInterrupt
            seen.append(window)
            yield window

    with monkeypatch.context() as patch:
        patch.setattr(Windows, "__call__", killing)
        with pytest.raises(Interrupted):
            trained("bf16-mixed", tmp_path)
    again = trained("bf16-mixed", tmp_path)
    for name, weight in low._network().state_dict().items():
        assert torch.equal(weight, again._network().state_dict()[name]), name


def test_frequencies_and_positions() -> None:
    rows = by_frequency(np.array([0, 1, 1, 2]), np.array([4.0, 1.0, 2.0, 3.0]), np.array([0, 12, 5]))
    assert [(row["name"], row["share"], row["nats"]) for row in rows] == [
        ("never", 0.25, 4.0), ("1 to 9", 0.25, 3.0), ("10 to 99", 0.5, 1.5),
    ]  # fmt: skip
    assert positions(np.array([5, 5, 2, 5, 2, 2]), 2).tolist() == [1, 2, 3, 1, 2, 1]


def test_own_baselines_are_learnt_from_the_other_tenths(model: LanguageModel) -> None:
    (numbers,) = model.tokenizer.encode([TEXT])
    found = own_baselines(numbers, model.tokenizer)
    assert found["unigrams"] > found["bigrams"] > min(found.values()) > 0.2
    assert own_baselines(numbers[:19], model.tokenizer) == {}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tokens": "letters"}, "tokens: expected one of"),
        ({"hidden_sizes": 0}, "hidden_sizes: expected whole numbers from 1"),
        ({"hidden_sizes": ()}, "hidden_sizes: expected whole numbers from 1"),
        ({"vocabulary": 0}, "vocabulary: expected a whole number, 1 or more, got 0"),
        ({"window": 1.5}, "window: expected a whole number, 1 or more, got 1.5"),
        ({"epochs": -1}, "epochs: expected a whole number"),
        ({"minutes": 0}, "minutes: expected a number above 0, got 0"),
        ({"learning_rate": math.nan}, "learning_rate: expected a number above 0"),
        ({"dropout": 1.0}, "dropout: expected a number from 0 to below 1"),
        ({"recipe": "sgd"}, "recipe: expected one of adamw, awd, got 'sgd'"),
        ({"hidden_sizes": 8.5}, "hidden_sizes: expected whole numbers from 1"),
        ({"minutes": "1"}, "minutes: expected a number above 0, got '1'"),
        ({"learning_rate": 1j}, "learning_rate: expected a number above 0, got 1j"),
        ({"dropout": True}, "dropout: expected a number from 0 to below 1, got True"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"seed": True}, "seed: expected a whole number from 0"),
    ],
)
def test_refuses_arguments(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        LanguageModel(**wrong)


@pytest.mark.parametrize("length", [0, -1, 1.5, True, module.LONGEST + 1])
def test_refuses_lengths(model: LanguageModel, length: Any) -> None:
    with pytest.raises(ArgumentError, match=r"length: expected a number of tokens from 1 to 1,000,000, got"):
        model.generate("a", length=length)


def test_refuses_what_it_cannot_use(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="has learnt nothing yet"):
        LanguageModel().generate("a")
    with pytest.raises(ArgumentError, match="labels: a language model learns from text alone"):
        LanguageModel().fit(["a", "b"], ["x", "y"])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"temperature: expected 0 or more, such as 0\.8, got -1"):
        model.generate("a", temperature=-1)
    with pytest.raises(ArgumentError, match="prompt: expected a string, got bytes"):
        model.generate(b"a")  # type: ignore[arg-type]
    for seed in (-1, True):
        with pytest.raises(ArgumentError, match="seed: expected"):
            model.generate("a", seed=seed)
    for text in ("", " \n", 7):
        with pytest.raises(DataError, match="text: expected some text to score"):
            model.score(text)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="too little to hold a tenth back"):
        LanguageModel().fit(b"a")
    with pytest.raises(DataError, match="has 3 tokens; expected at least 8"):
        LanguageModel().fit(b"abc", valid=b"abc")
    with pytest.raises(ArgumentError, match="vocabulary: expected at least 3"):
        LanguageModel(vocabulary=1).fit(TEXT.encode())


def test_a_text_shorter_than_a_window_is_learnt() -> None:
    model = LanguageModel(hidden_sizes=7, epochs=1).fit(b"abcabcabcabc", valid=b"ab")
    assert model.plan.window <= 12 // 4
    assert len(model.generate("a", length=7)) == 8


def test_a_megabyte_in_one_line_is_learnt_and_judged() -> None:
    line = b"abcdefgh \xf0\x9f\x99\x82\x07" * 9_000
    model = LanguageModel(hidden_sizes=3, epochs=1, streams=63, window=200).fit(line)
    assert model.evaluate(line[: 14 * 700])["tokens"] == 11 * 700


def test_refuses_files_of_others(model: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model.save(path)
    tensors, document = checkpoint.read(path)
    del document["format"], document["recurra"]
    for name in ("plan", "tokenizer", "listed", "arguments"):
        checkpoint.write(path, tensors, {key: value for key, value in document.items() if key != name})
        with pytest.raises(ModelFileError, match="does not fit its weights or this version"):
            LanguageModel.load(path)
    checkpoint.write(path, {**tensors, "counts": torch.zeros(3)}, document)
    with pytest.raises(ModelFileError, match="counts and tokens differ"):
        LanguageModel.load(path)
    checkpoint.write(path, tensors, {**document, "task": "forecast"})
    with pytest.raises(ModelFileError, match="expected a language model, found task 'forecast'"):
        LanguageModel.load(path)
    with pytest.raises(ModelFileError):
        Forecaster.load(path)
