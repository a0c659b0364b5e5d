"""What may be drawn next and how likely, tokens as text, and the n-grams that a model must beat."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from rhymes import rhymes

from recurra.data.tokens import Tokenizer
from recurra.errors import ArgumentError
from recurra.tasks.ngrams import KneserNey
from recurra.tasks.sampling import Drawer, Sampling
from recurra.tasks.speaking import Speaker

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 0.5])


def test_plain_sampling_is_softmax() -> None:
    torch.testing.assert_close(Sampling().chances(LOGITS), LOGITS.double().softmax(0))


@pytest.mark.parametrize("heat", [0.1, 0.7, 3.0])
def test_temperature_divides_the_logits(heat: float) -> None:
    found = Sampling(temperature=heat).chances(LOGITS)
    torch.testing.assert_close(found, (LOGITS.double() / heat).softmax(0))


def test_temperature_0_takes_the_likeliest() -> None:
    assert Sampling(temperature=0).chances(LOGITS).tolist() == [0, 1, 0, 0, 0]
    assert Sampling(temperature=1e-300).chances(LOGITS).tolist() == [0, 1, 0, 0, 0]


def test_top_k_keeps_the_likeliest() -> None:
    found = Sampling(top_k=2).chances(LOGITS)
    assert (found > 0).tolist() == [False, True, True, False, False]
    assert found.sum() == pytest.approx(1)
    assert found[1] / found[2] == pytest.approx(math.e)
    torch.testing.assert_close(Sampling(top_k=99).chances(LOGITS), Sampling().chances(LOGITS))


def test_top_p_keeps_the_fewest_that_hold_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    kept = {p: int((Sampling(top_p=p).chances(logits) > 0).sum()) for p in (1e-9, 0.49, 0.51, 0.79, 0.9, 1.0)}
    assert kept == {1e-9: 1, 0.49: 1, 0.51: 2, 0.79: 2, 0.9: 3, 1.0: 4}


def test_repetition_makes_what_was_said_less_likely() -> None:
    plain, guarded = (Sampling(repetition=r).chances(LOGITS, [1, 3]) for r in (1.0, 1.5))
    for said in (1, 3):
        assert guarded[said] / guarded[0] < 0.9 * plain[said] / plain[0]
    assert guarded[2] / guarded[0] == pytest.approx(float(plain[2] / plain[0]))


def test_what_is_forbidden_is_never_drawn() -> None:
    drawer = Drawer(Sampling(), 1, forbidden=[1, 2])
    assert {drawer.draw(LOGITS) for _ in range(200)} <= {0, 3, 4}


def test_draws_follow_the_chances_and_the_seed() -> None:
    first, again, other = (Drawer(Sampling(), seed) for seed in (7, 7, 8))
    drawn = [first.draw(LOGITS) for _ in range(4000)]
    assert drawn[:50] == [again.draw(LOGITS) for _ in range(50)]
    assert drawn[:50] != [other.draw(LOGITS) for _ in range(50)]
    shares = np.bincount(drawn, minlength=5) / 4000
    np.testing.assert_allclose(shares, LOGITS.softmax(0).numpy(), atol=0.03)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": 0},
        {"top_k": -3}, {"top_p": 0.0}, {"top_p": 1.01}, {"top_p": math.nan}, {"repetition": 0.9},
        {"temperature": "1"}, {"temperature": None}, {"top_k": 2.5}, {"top_k": "3"}, {"top_p": None},
        {"repetition": 1j},
    ],
)  # fmt: skip
def test_refuses_numbers_that_make_no_sense(wrong: dict[str, Any]) -> None:
    name = next(iter(wrong))
    with pytest.raises(ArgumentError, match=rf"^{name}: expected .*, got .*; change it$"):
        Sampling(**wrong)


@pytest.mark.parametrize("kind", ["character", "bpe"])
def test_a_speaker_gives_the_text_back(kind: str) -> None:
    text = "Naïve 🙂 cats,\n\n  (春眠) 'tis!\n"
    tokenizer = Tokenizer.fit([text * 3], kind, vocabulary=300)
    speaker = Speaker(tokenizer)
    assert "".join(map(speaker.say, tokenizer.encode([text])[0].tolist())) + speaker.rest() == text


def test_a_speaker_of_words_knows_where_blanks_belong() -> None:
    text = 'He said (twice): "no, it isn\'t 春眠."'
    tokenizer = Tokenizer.fit([text], "word")
    speaker = Speaker(tokenizer, "…and ")
    said = "".join(map(speaker.say, tokenizer.encode(["He said (twice): no, it isn't 春眠."])[0].tolist()))
    assert said == "He said (twice): no, it isn't 春眠."
    assert Speaker(tokenizer, "He").say(int(tokenizer.encode(["said"])[0][0])) == " said"


def test_half_a_character_waits_for_its_other_half() -> None:
    tokenizer = Tokenizer.fit(["abc"], "bpe", vocabulary=300)
    speaker = Speaker(tokenizer)
    pieces = [speaker.say(int(number)) for number in tokenizer.encode(["é!"])[0]]
    assert pieces == ["", "é", "!"]
    speaker.say(int(tokenizer.encode(["é"])[0][0]))
    assert speaker.rest() == "\ufffd"


def slow_kneser_ney(text: list[int], tokens: int, context: tuple[int, ...], word: int, top: bool) -> float:
    """The definition, counted anew: p(word | context)."""
    n = len(context) + 1
    grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    if top:
        counts = Counter(grams)
    else:
        longer = {tuple(text[i : i + n + 1]) for i in range(len(text) - n)}
        counts = Counter(gram[1:] for gram in longer)
        for gram in grams[:1]:  # the text's first n-gram may have nothing before it
            counts.setdefault(gram, 1)
    lower = slow_kneser_ney(text, tokens, context[1:], word, False) if context else 1 / tokens
    once, twice = (sum(c == k for c in counts.values()) for k in (1, 2))
    discount = once / (once + 2 * twice) if once and twice else 0.5
    here = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
    if not here:
        return lower
    total = sum(here.values())
    own = max(here.get(word, 0) - discount, 0) / total
    return own + discount * len(here) / total * lower


def test_kneser_ney_is_its_definition() -> None:
    draw = np.random.default_rng(3)
    text = draw.choice(5, size=63, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    model = KneserNey(text, 6, order=3)
    judged = draw.integers(0, 6, size=33)
    found = np.exp(-model.surprise(judged))
    for n in (1, 2, 3):
        for place in range(n - 1, 33):
            context = tuple(int(w) for w in judged[place - n + 1 : place])
            expected = slow_kneser_ney(text.tolist(), 6, context, int(judged[place]), True)
            assert found[n - 1, place] == pytest.approx(expected, rel=1e-9), (n, place)


def test_kneser_ney_sums_to_one() -> None:
    tokenizer = Tokenizer.fit([rhymes(33)], "character")
    (text,) = tokenizer.encode([rhymes(33)])
    size = len(tokenizer)
    model = KneserNey(text, size, order=4)
    for start in (0, 7, len(text) - 3):
        rows = [model.surprise(np.append(text[start : start + 3], word))[:, -1] for word in range(size)]
        np.testing.assert_allclose(np.exp(-np.array(rows)).sum(0), 1.0, rtol=1e-9)
    nats = model.surprise(text).mean(1)
    assert all(after < before for before, after in itertools.pairwise(nats))


def test_kneser_ney_of_hardly_any_text() -> None:
    assert KneserNey(np.array([1]), 3, order=5).surprise(np.array([1, 2])).shape == (1, 2)
    assert KneserNey(np.array([1, 2, 1]), 3, order=5).surprise(np.array([1, 2])).shape == (3, 2)
    with pytest.raises(ArgumentError, match="order: expected 1 or more, got 0"):
        KneserNey(np.array([1, 2]), 3, order=0)
