"""The tagger learns, says how sure it is, and is the same again by its seed, its file, after a stop."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tag_samples import Pair, sentences

from recurra import checkpoint
from recurra.data.conll import read_tagged
from recurra.data.schemes import SCHEMES, Span, converted, spans
from recurra.errors import ArgumentError, DataError, Interrupted, ModelFileError
from recurra.nn import CRF, bioes_constraints
from recurra.tasks.tag import Tagger
from recurra.tasks.tag_features import Batches, Encoded, Lexicon, affix, plain, shape, word_chances
from recurra.tasks.tag_network import TagNetwork
from recurra.tasks.tag_spelling import Spelling

TINY = {"hidden_size": 12, "embedding_size": 12, "batch_size": 7, "recurrent_dropout": 0.0, "dropout": 0.2}


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(**TINY, epochs=7, learning_rate=0.01).fit(sentences(63), valid=sentences(33, seed=8))


def weights(tagger: Tagger) -> dict[str, torch.Tensor]:
    assert tagger.network is not None
    return dict(tagger.network.state_dict())


def same(one: Tagger, other: Tagger) -> bool:
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_it_learns_and_says_what_it_found(tagger: Tagger) -> None:
    rows = [["Ada", "left", "New", "York", "."], [], ["Bob", "left", "東京", "!"]]
    found = tagger.predict(rows, n_best=3)
    assert found.tags == (("B-PER", "O", "B-LOC", "I-LOC", "O"), (), ("B-PER", "O", "B-LOC", "O"))
    assert found.spans() == (
        (Span(0, 1, "PER"), Span(2, 4, "LOC")),
        (),
        (Span(0, 1, "PER"), Span(2, 3, "LOC")),
    )
    assert [len(sure) for sure in found.probabilities] == [5, 0, 4]
    assert all(((sure > 0) & (sure <= 1 + 1e-5)).all() for sure in found.probabilities)
    for tags, paths in zip(found.tags, found.paths, strict=True):
        assert paths[0][0] == tags
        chances = [chance for _, chance in paths]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) <= 1 + 1e-5
        assert len({path for path, _ in paths}) == len(paths)
    assert found.paths[1] == (((), 1.0),)
    assert tagger.predict([["Ada"]]).paths == ()
    scores = tagger.evaluate(sentences(33, seed=9))
    assert scores["f1"] > 0.95
    assert set(scores["by_kind"]) == {"PER", "LOC"}
    assert scores["unseen_tags"] == []
    rows = tagger.history["train"]
    assert len(rows) == 7
    assert rows[-1]["valid_loss"] == pytest.approx(1 - tagger.evaluate(sentences(33, seed=8))["f1"], abs=0.1)


def test_each_path_is_as_likely_as_the_marginals_say(tagger: Tagger) -> None:
    found = tagger.predict([["Ada"], ["New", "York"]], n_best=63)
    for row, paths in enumerate(found.paths):
        assert sum(chance for _, chance in paths) == pytest.approx(1, abs=1e-4)
        for place, (tag, sure) in enumerate(zip(found.tags[row], found.probabilities[row], strict=True)):
            total = sum(chance for path, chance in paths if path[place] == tag)
            assert sure == pytest.approx(total, abs=1e-4)


def test_where_a_sentence_stands_changes_nothing(tagger: Tagger) -> None:
    rows = [words for words, _ in sentences(33, seed=5)] + [["Ada"] * 63, []]
    together = tagger.predict(rows)
    order = np.random.default_rng(3).permutation(len(rows))
    shuffled = tagger.predict([rows[n] for n in order])
    assert tuple(shuffled.tags) == tuple(together.tags[n] for n in order)
    for n, sure in zip(order, shuffled.probabilities, strict=True):
        np.testing.assert_allclose(sure, together.probabilities[n], atol=1e-5)


def test_saved_and_loaded_it_says_the_same(tagger: Tagger, tmp_path: Path) -> None:
    path = tmp_path / "tagger.safetensors"
    tagger.save(path)
    again = Tagger.load(path)
    one, other = (it.predict(sentences(7, seed=4), n_best=2) for it in (tagger, again))
    assert one.tags == other.tags
    assert one.paths == other.paths
    assert again.history == tagger.history
    assert again.evaluate(sentences(7)) == tagger.evaluate(sentences(7))
    assert same(tagger, again)


def test_the_seed_decides_everything() -> None:
    def fitted(seed: int) -> Tagger:
        torch.manual_seed(seed + 100)
        before = torch.get_rng_state()
        found = Tagger(**TINY, epochs=1, seed=seed).fit(sentences(33))
        assert torch.equal(torch.get_rng_state(), before), "the caller's generator is as it was"
        return found

    first = fitted(3)
    assert same(first, fitted(3))
    assert not same(first, fitted(4))


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    numbers = {**TINY, "dropout": 0.5, "recurrent_dropout": 0.3, "epochs": 3}
    whole = Tagger(**numbers).fit(sentences(33), valid=sentences(7))

    def stop(row: dict[str, object]) -> None:
        if row["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        Tagger(**numbers).fit(sentences(33), valid=sentences(7), checkpoints=tmp_path, log=stop)
    seen: list[dict[str, object]] = []
    again = Tagger(**numbers).fit(sentences(33), valid=sentences(7), checkpoints=tmp_path, log=seen.append)
    assert same(whole, again)
    assert [row["epoch"] for row in seen] == [3]
    with pytest.raises(ArgumentError, match="was written by a run with other data or settings"):
        Tagger(**numbers).fit(sentences(34), valid=sentences(7), checkpoints=tmp_path)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tags_come_out_in_the_scheme_they_came_in(scheme: str) -> None:
    """Two spans of one kind side by side too, where IOB1 says B-."""
    pairs: list[Pair] = [(["Ada", "Bob", "left"], ["B-PER", "B-PER", "O"])] * 9 + sentences(33)
    given = [(words, converted(tags, scheme)) for words, tags in pairs]
    found = Tagger(**TINY, epochs=9, learning_rate=0.01).fit(given)
    rows = found.predict([words for words, _ in given]).tags
    assert sum(list(tags) == theirs for tags, (_, theirs) in zip(rows, given, strict=True)) > 35
    for row in rows:
        assert converted(row, scheme) == list(row), "a valid sentence of the scheme"
    assert list(rows[0]) == converted(["B-PER", "B-PER", "O"], scheme)


@pytest.mark.parametrize("characters", ["cnn", "lstm", "none"])
def test_parts_of_speech_are_tags_without_spans(characters: str) -> None:
    tags = {"Ada": "NAME", "Bob": "NAME", "runs": "VERB", "sings": "VERB", ".": "MARK"}
    pairs = [([w, v, "."], [tags[w], tags[v], "MARK"]) for w in ("Ada", "Bob") for v in ("runs", "sings")] * 5
    found = Tagger(**TINY, characters=characters, layers=2, epochs=9, learning_rate=0.01).fit(pairs)
    assert found.scheme == ""
    assert found.predict([["Bob", "sings", "."]]).tags == (("NAME", "VERB", "MARK"),)
    scores = found.evaluate(pairs)
    assert scores["accuracy"] == 1.0
    assert "f1" not in scores
    assert set(scores["by_kind"]) == {"NAME", "VERB", "MARK"}


def test_tags_that_were_never_taught_count_as_mistakes(tagger: Tagger) -> None:
    scores = tagger.evaluate([(["Ada", "left", "Lego"], ["B-PER", "O", "B-ORG"])])
    assert scores["unseen_tags"] == ["ORG"]
    assert scores["by_kind"]["ORG"]["recall"] == 0
    plain_tags = Tagger(**TINY, epochs=1).fit([(["a", "b"], ["X", "Y"])] * 3)
    assert plain_tags.evaluate([(["a"], ["Z"])])["unseen_tags"] == ["Z"]
    later = Tagger(**TINY, epochs=1).fit(sentences(7), valid=[(["Lego"], ["B-ORG"])])
    assert later.history["train"][0]["valid_loss"] == 1.0


def test_one_tag_only_is_noted() -> None:
    found = Tagger(**TINY, epochs=1).fit([(["a", "b"], ["O", "O"])] * 3)
    assert found.notes == ("Every word has the tag O: there is nothing to learn.",)
    assert found.predict([["c"], []]).tags == (("O",), ())
    assert found.predict([["c"]]).probabilities[0].tolist() == [1.0]


def test_odd_words_are_tagged(tagger: Tagger) -> None:
    odd = ["👩‍👩‍👧", "\x07", "\u2028", "x" * (1 << 20), "é", "ﷺ", "-", " "]
    found = tagger.predict([odd, odd[::-1], ["Ada"]])
    assert [len(row) for row in found.tags] == [8, 8, 1]
    assert found.tags[2] == ("B-PER",)
    learnt = Tagger(**TINY, epochs=1).fit([(odd, ["O"] * 7 + ["B-X"])] * 3 + [([], [])])
    assert len(json.dumps(learnt.lexicon.to_json())) < 20_000, "not a word of a megabyte"
    assert learnt.predict([odd]).tags[0][0] in ("O", "B-X")


def test_words_with_vectors_begin_with_them(tmp_path: Path) -> None:
    path = tmp_path / "some.vec"
    path.write_text("3 5\nada 1 2 3 4 5\nlondon 5 4 3 2 1\nnobody 9 9 9 9 9\n", encoding="utf-8")
    found = Tagger(**TINY, epochs=1, vectors=path, learning_rate=1e-9).fit(sentences(33))
    table = weights(found)["tables.0.weight"]
    assert table.shape[1] == 5
    row = table[2 + found.lexicon.attributes[0].index("ada")]
    assert torch.corrcoef(torch.stack((row, torch.arange(1.0, 6))))[0, 1] == pytest.approx(1, abs=1e-5)
    path.write_text("nobody 9 9\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'some.vec' has a vector for none of the .* words"):
        Tagger(vectors=path).fit(sentences(7))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"hidden_size": 0}, "hidden_size must be a whole number, at least 1, but 0 was given"),
        ({"layers": True}, "layers must be a whole number"),
        ({"layers": None}, "layers must be a whole number, at least 1, but None was given"),
        ({"embedding_size": None}, "embedding_size must be a whole number, at least 1, but None was given"),
        ({"vectors": 5}, "vectors must be the path of a file, but 5 was given"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"dropout": 1.0}, "dropout must be a chance from 0 to below 1, but 1.0 was given"),
        ({"recurrent_dropout": -0.1}, "recurrent_dropout must be a chance"),
        ({"characters": "rnn"}, "characters must be one of cnn, lstm, none, but 'rnn' was given"),
        ({"dropout": "much"}, "dropout must be a chance from 0 to below 1, but 'much' was given"),
        ({"learning_rate": "fast"}, "learning_rate must be a number above 0, but 'fast' was given"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0, but 0 was given"),
        ({"seed": -1}, r"seed must be a whole number from 0 to 2\*\*63 - 1, but -1 was given"),
    ],
)
def test_arguments_that_make_no_sense(numbers: dict[str, object], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        Tagger(**numbers)  # type: ignore[arg-type]


def test_data_that_cannot_be_learnt_from(tagger: Tagger) -> None:
    with pytest.raises(ArgumentError, match=r"learnt nothing yet: call fit\(data\) or load\(path\) first"):
        Tagger().predict([["a"]])
    with pytest.raises(ArgumentError, match="n_best must be a whole number, at least 0, but -1"):
        tagger.predict([["a"]], n_best=-1)
    with pytest.raises(DataError, match="has only empty sentences"):
        Tagger(**TINY).fit([([], [])])
    with pytest.raises(DataError, match="has words but no tags"):
        Tagger(**TINY).fit([["a", "b", "c"]])
    with pytest.raises(DataError, match="mixes the schemes BIO and IOB1"):
        Tagger(**TINY).fit([(["a", "b"], ["I-X", "O"]), (["a", "b"], ["B-X", "O"])])
    with pytest.raises(DataError, match="say no spans, and those of the training data do"):
        tagger.evaluate([(["a"], ["NOUN"])])
    with pytest.raises(DataError, match="say no spans"):
        Tagger(**TINY).fit(sentences(7), valid=[(["a"], ["NOUN"])])
    assert tagger.evaluate([(["a"], ["O"])])["f1"] in (0.0, 1.0)


def test_files_that_are_no_taggers(tagger: Tagger, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.write(path, {}, {"task": "forecast"})
    with pytest.raises(ModelFileError, match="expected a tagger, found task 'forecast'"):
        Tagger.load(path)
    tagger.save(path)
    tensors, document = checkpoint.read(path)
    for broken in ({"plan": {}}, {"labels": ["O"]}, {"lexicon": 7}, {"arguments": {"seed": -1}}):
        rest = {name: value for name, value in document.items() if name not in ("format", "recurra")}
        checkpoint.write(path, tensors, {**rest, **broken})
        with pytest.raises(ModelFileError, match="does not fit its weights or this version"):
            Tagger.load(path)


def test_what_is_seen_of_a_word() -> None:
    assert plain("McDonald-97") == "mcdonald-00"
    assert shape("McDonald-97") == "XxXxx-dd"
    assert shape("U.N.") == "X.X."
    assert [affix("cats", n) for n in (-1, -3, 3, 4, -4)] == ["s", "ats", "cat", "", ""]
    lexicon = Lexicon.fit([["cats", "bats"], ["Cats"]])
    attributes, characters = lexicon.encode(["cats", "zebra", ""])
    assert attributes.shape == (3, 9)
    assert attributes[0, 0] == 2, "the most frequent word is the first after padding and unknown"
    assert attributes[1, 0] == 1
    assert (attributes >= 1).all()
    assert (characters != 0).sum(1).tolist() == [4, 5, 0]
    assert Lexicon.from_json(json.loads(json.dumps(lexicon.to_json()))) == lexicon
    assert word_chances(np.array([1, 3])).tolist() == [0.5, 0.25]


def test_batches_hold_each_sentence_once_and_forget_rare_words() -> None:
    data = read_tagged([*sentences(63), ([], [])])
    lexicon = Lexicon.fit(data.words)
    labels = sorted({tag for row in data.tags or () for tag in row})
    encoded = Encoded.of(data, lexicon, data.tags, labels)
    batches = Batches(encoded, 7)
    found = list(batches(torch.Generator().manual_seed(3)))
    assert len(found) == len(batches) == 9
    assert sum(len(batch.lengths) for batch in found) == 63, "the empty sentence is left out"
    assert sum(int(batch.lengths.sum()) for batch in found) == len(encoded.tokens)
    for batch in found:
        assert len(batch.attributes) == len(torch.unique(batch.places))
    words = torch.cat([batch.attributes[:, 0] for batch in found])
    share = float((words == 1).double().mean())
    assert 0.02 < share < 0.3
    again = list(batches(torch.Generator().manual_seed(3)))
    assert all(torch.equal(one.attributes, other.attributes) for one, other in zip(found, again, strict=True))


def test_the_network_does_not_see_padding() -> None:
    network = TagNetwork(sizes=(9, 5), letters=7, tags=3, hidden_size=4).eval()
    attributes = torch.tensor([[1, 2], [3, 4]])
    short, long = torch.tensor([[2, 3], [4, 0]]), torch.tensor([[2, 3, 0, 0, 0], [4, 0, 0, 0, 0]])
    torch.testing.assert_close(network.words(attributes, short), network.words(attributes, long))
    assert network.words(attributes, torch.zeros(2, 1, dtype=torch.int64)).isfinite().all()
    vectors = network.words(attributes, short)[torch.tensor([[0, 1, 0], [1, 0, 1]])]
    scores = network(vectors, torch.tensor([3, 1]))
    torch.testing.assert_close(scores[1, :1], network(vectors[1:, :1], torch.tensor([1]))[0])


def test_iob1_begins_anew_only_after_a_span_of_its_kind() -> None:
    labels = ["O", *(f"{letter}-{kind}" for kind in "AB" for letter in "BIES")]
    crf = CRF(len(labels), bioes_constraints(labels))
    lengths = [33, 7, 1]
    tags, _ = crf.decode(torch.randn(3, 33, len(labels)) * 3, lengths)
    spelling = Spelling.of(labels, "IOB1")
    for row, length in zip(tags.tolist(), lengths, strict=True):
        inside = [labels[n] for n in row[:length]]
        assert list(spelling.path(row[:length])) == converted(inside, "IOB1")
        assert spans(spelling.path(row[:length])) == spans(inside)
