"""From text to tokens and their numbers, and back, by the tokenizers library.

Five kinds. "word": words with their apostrophes and hyphens, marks one by one, and one token for each
character, with its accents, of scripts that leave no blanks between words (Chinese, Japanese, Thai …);
"blank": what stands between blanks, for text that was split before; "character": every character, blanks and
line breaks too; "bpe": pairs of bytes merged by frequency (Sennrich, Haddow and Birch, "Neural machine
translation of rare words with subword units", 2016), so that no text is unknown; "jieba": Chinese words by
the jieba package.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.data.words import short
from recurra.errors import ArgumentError, DataError

KINDS = ("word", "blank", "character", "bpe", "jieba")
PADDING, UNKNOWN = "<pad>", "<unk>"
_NOTHING = "there is no token in the texts; expected some text in one of them"

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTERS = rf"[\p{{L}}\p{{N}}\p{{M}}_&&[^{_UNSPACED}]]+"
_JOINERS = r"['’\-\u200c\u200d]"  # the last two stand within words of Persian and of Indian scripts
_WORD = rf"[{_UNSPACED}]\p{{M}}*|{_LETTERS}(?:{_JOINERS}{_LETTERS})*|[^\s\p{{C}}]\p{{M}}*"


class _NoJieba(ArgumentError, ImportError):
    """These tokens cannot be used here, for want of a package."""


class Tokenizer:
    """Text to numbers and back. Token 0 is padding and token 1 stands for whatever is not known.

    Made by `fit`, or from what `to_json` gave by `from_json`. Of kind "character" and "bpe", `decode` gives
    the text as it was; of the others its tokens with blanks between.

    For example::

        tokenizer = Tokenizer.fit(["to be or not to be"], "word")
        numbers, = tokenizer.encode(["not to know"])
        assert tokenizer.decode(numbers) == "not to <unk>"
    """

    def __init__(self, kind: str, rules: Any) -> None:
        self.kind, self._rules = kind, rules
        self.padding, self.unknown = 0, 1
        rules.encode_special_tokens = True  # a "<pad>" that a text spells is text
        self.tokens: tuple[str, ...] = _by_number(rules.get_vocab(with_added_tokens=True))
        self._numbers = {token: number for number, token in enumerate(self.tokens)}
        letters = sorted((ord(token), number) for token, number in self._numbers.items() if len(token) == 1)
        self._letters = np.array(letters, dtype=np.int64).reshape(-1, 2).T  # (2, K): code point, number

    def __len__(self) -> int:
        return len(self.tokens)

    @staticmethod
    def fit(
        texts: Iterable[str],
        kind: str = "word",
        *,
        vocabulary: int = 30_000,
        fewest: int = 1,
        lower: bool = False,
        marks: Sequence[str] = (),
    ) -> Tokenizer:
        """Learn the tokens of these texts.

        vocabulary: how many at most, the most frequent ones. fewest: how often a token must occur, at least.
        lower: take all letters as small ones. marks: tokens of the caller's own, such as the end of a line's
        "<eos>"; they follow padding and unknown as tokens 2, 3 ….

        Raises ArgumentError for an unknown kind, a vocabulary that leaves no room, marks that are empty or
        not different, and one string in place of several; DataError where there is nothing to learn;
        ImportError for "jieba" without that package.
        """
        _refuse_one(texts)
        if kind not in KINDS:
            raise ArgumentError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}; choose one of them")
        special = [PADDING, UNKNOWN, *marks]
        if len(set(special)) < len(special) or "" in special or isinstance(marks, str):
            raise ArgumentError(
                f"marks: expected different tokens besides {PADDING} and {UNKNOWN}, got {marks!r}; rename"
            )
        least = len(special) + (256 if kind == "bpe" else 1)
        if vocabulary < least:
            raise ArgumentError(
                f"vocabulary: expected at least {least} for kind {kind!r}, got {vocabulary}; give more"
            )
        if fewest < 1:
            raise ArgumentError(f"fewest: expected 1 or more, got {fewest}; 1 keeps every token")
        rules = _rules(kind, lower)
        if kind == "bpe":
            _learn_pairs(rules, texts, vocabulary, fewest, special)
        else:
            counts: Counter[str] = Counter()
            for split in _split(rules, kind, texts):
                counts.update(split)
            for mark in special:
                counts.pop(mark, None)
            # the most frequent first, and those of one frequency by themselves: the same on every machine
            kept = sorted(
                (token for token, n in counts.items() if n >= fewest), key=lambda t: (-counts[t], t)
            )
            if not kept:
                few = f"no token comes {fewest} times in the texts; lower fewest"
                raise DataError(few if counts else _NOTHING)
            _set_words(rules, [*special, *kept[: vocabulary - len(special)]])
        return Tokenizer(kind, rules)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The numbers of each text's tokens, (T,) int64; none of an empty text.

        Raises ArgumentError for one string in place of several.
        """
        _refuse_one(texts)
        if self.kind == "character":
            return [self._characters(text) for text in texts]
        given: Sequence[Any] = [_cut(text) for text in texts] if self.kind == "jieba" else texts
        found = self._rules.encode_batch_fast(
            list(given), is_pretokenized=self.kind == "jieba", add_special_tokens=False
        )
        rows = [np.array(one.ids, dtype=np.int64) for one in found]
        return rows if self.kind == "bpe" else [self._without_padding(row) for row in rows]

    def _without_padding(self, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """What a text spells like the padding is not known."""
        return np.where(row == self.padding, self.unknown, row)

    def _characters(self, text: str) -> NDArray[np.int64]:
        """(T,): the number of each character, by its code point."""
        codes = np.frombuffer(self._lowered(text).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        points, numbers = self._letters
        places = np.minimum(np.searchsorted(points, codes), len(points) - 1)
        return np.where(points[places] == codes, numbers[places], self.unknown)

    def _lowered(self, text: str) -> str:
        """In small letters where these tokens are, as the library makes them; Python differs in a few."""
        return _lowered(self._rules, text)

    def encode_words(self, words: Sequence[Sequence[str]]) -> list[NDArray[np.int64]]:
        """The number of each word of texts that are split already, a token each.

        Raises ArgumentError for strings in place of lists of words.
        """
        for text in words:
            _refuse_one(text, "words")
        known = [[self._numbers.get(self._lowered(word), self.unknown) for word in text] for text in words]
        return [self._without_padding(np.array(row, dtype=np.int64)) for row in known]

    def split(self, text: str) -> list[str]:
        """The tokens of a text as they are written, those that are not known too: as many as `encode` gives.

        Of kind "bpe" they join to the text; of a letter that several tokens spell, the first one gets it and
        the others are empty.
        """
        if self.kind == "bpe":
            pieces, done = [], 0
            for start, stop in self._rules.encode(text).offsets:
                pieces.append(text[max(start, done) : stop])
                done = max(done, stop)
            return pieces
        return next(iter(_split(self._rules, self.kind, [text])))

    def decode(self, numbers: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text of these tokens, padding left out. Raises ArgumentError for a number without a token."""
        listed = [int(number) for number in numbers]
        wrong = next((number for number in listed if not 0 <= number < len(self)), None)
        if wrong is not None:
            raise ArgumentError(f"numbers: expected tokens from 0 to {len(self) - 1}, got {wrong}")
        listed = [number for number in listed if number != self.padding]
        if self.kind == "bpe":
            return str(self._rules.decode(listed, skip_special_tokens=False))
        between = "" if self.kind == "character" else " "
        return between.join(self.tokens[number] for number in listed)

    def to_json(self) -> dict[str, Any]:
        """All of it, for a model file."""
        return {"kind": self.kind, "rules": json.loads(self._rules.to_str())}

    @staticmethod
    def from_json(document: dict[str, Any]) -> Tokenizer:
        """The tokenizer that `to_json` told. Raises DataError for another document."""
        from tokenizers import Tokenizer as Rules

        try:
            kind, rules = document["kind"], Rules.from_str(json.dumps(document["rules"]))
            numbers = sorted(rules.get_vocab(with_added_tokens=True).values())
            if kind not in KINDS or numbers != list(range(len(numbers))):
                raise ValueError(f"kind {kind!r} with {len(numbers)} tokens")
            if [rules.token_to_id(PADDING), rules.token_to_id(UNKNOWN)] != [0, 1]:
                raise ValueError(f"{PADDING} and {UNKNOWN} are not its first tokens")
            return Tokenizer(kind, rules)
        except Exception as problem:  # the library raises bare Exception for rules that it cannot read
            raise DataError(
                f"the tokenizer cannot be read ({str(problem)[:100]}); expected what to_json gave: write the "
                "model file again"
            ) from problem


def _rules(kind: str, lower: bool) -> Any:
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Rules

    if kind == "bpe":
        rules = Rules(models.BPE(unk_token=None))
        rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        rules.decoder = decoders.ByteLevel()
    else:
        rules = Rules(models.WordLevel({PADDING: 0, UNKNOWN: 1}, unk_token=UNKNOWN))
        match kind:
            case "word":
                rules.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
            case "character":
                pass  # is split in Python, thirty times faster
            case _:
                rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if lower:
        rules.normalizer = normalizers.Lowercase()
    return rules


def _split(rules: Any, kind: str, texts: Iterable[str]) -> Iterable[list[str]]:
    """The tokens of each text."""
    for text in texts:
        if kind == "jieba":
            yield [_lowered(rules, word) for word in _cut(text)]
        elif kind == "character":
            yield list(_lowered(rules, text))
        else:
            yield [token for token, _ in rules.pre_tokenizer.pre_tokenize_str(_lowered(rules, text))]


def _lowered(rules: Any, text: str) -> str:
    return str(rules.normalizer.normalize_str(text)) if rules.normalizer else text


def _refuse_one(texts: Any, name: str = "texts") -> None:
    if isinstance(texts, str):
        raise ArgumentError(f"{name}: expected several strings, got one, {short(texts)}; put it in a list")


def _cut(text: str) -> list[str]:
    try:
        import jieba

        jieba.setLogLevel("WARNING")
    except ImportError as problem:
        raise _NoJieba(
            'the tokens "jieba" need the package jieba: pip install "recurra[chinese]", or choose "word", '
            "which takes Chinese by character"
        ) from problem
    return [word for word in jieba.lcut(text) if not word.isspace()]


def _set_words(rules: Any, words: Sequence[str]) -> None:
    from tokenizers import models

    rules.model = models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN)


def _learn_pairs(rules: Any, texts: Iterable[str], size: int, fewest: int, special: list[str]) -> None:
    from tokenizers import pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=max(2, fewest),
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    some = False

    def seen() -> Iterator[str]:
        nonlocal some
        for text in texts:
            some = some or bool(text)
            yield text

    rules.train_from_iterator(seen(), trainer)
    if not some:
        raise DataError(_NOTHING)


def _by_number(vocabulary: dict[str, int]) -> tuple[str, ...]:
    return tuple(sorted(vocabulary, key=vocabulary.__getitem__))
