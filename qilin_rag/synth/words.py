"""The words of a synthetic corpus: jieba's dictionary with its frequencies, assigned to topics and concepts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from qilin_rag.synth.dice import Dice, Ints

STYLES = ("教程", "测评", "日常", "攻略", "避坑", "好物", "记录", "心得")
PUNCTUATION = ("，", "，", "，", "。", "。", "！", "？", "\n", "～")
STICKERS = ("[笑哭R]", "[偷笑R]", "[捂脸R]", "[哇R]", "[赞R]", "[汗颜R]", "[可怜R]", "[害羞R]", "[派对R]", "[飞吻R]")
EMOJI = ("🔥", "✨", "❗", "🌟", "😭", "🍃", "💡", "🥕", "🎉", "📍", "🌨️", "👍")
QUESTIONS = ("几月", "多少钱", "是什么", "怎么办", "要多久", "有几种", "怎样选择", "多久一次", "几点开门", "吗", "咋洗")
WISHES = (
    "图",
    "推荐",
    "平替",
    "款式",
    "文案",
    "小技巧",
    "高级感",
    "一日游",
    "懒人版",
    "平价好用",
    "新手入门",
    "零基础学",
)
"""Endings of queries, those that ask for a fact and those that do not."""

CONCEPTS_PER_TOPIC = 4
FLAVOURS_PER_TOPIC = 6
_CHARACTERS = 1200
_SINGLE_CHARACTERS = 250
_HEAD_WORDS = 1500
_LOOKUP_BITS = 18


class Dictionary(NamedTuple):
    """Words with their frequency, most frequent first, and those that can name a thing."""

    words: list[str]
    counts: list[int]
    names: list[str]


@cache
def dictionary() -> Dictionary:
    """Return the words in jieba's dictionary among all pairs of the most frequent characters.

    rjieba does not list its dictionary, but tells whether it has a word, and the frequency that it would need.
    """
    import rjieba

    jieba = rjieba.Jieba()
    counts = {c: jieba.suggest_freq(c) for c in _characters() if jieba.has_word(c)}
    characters = sorted(counts, key=lambda c: (-counts[c], c))[:_CHARACTERS]
    singles = characters[:_SINGLE_CHARACTERS]
    pairs = [first + second for first, second in product(characters, characters) if jieba.has_word(first + second)]
    frequencies = {word: jieba.suggest_freq(word) for word in [*singles, *pairs]}
    words = sorted(frequencies, key=lambda word: (-frequencies[word], word))
    reserved = {character for text in (*STYLES, *QUESTIONS, *WISHES) for character in text}
    names = [
        word
        for word in words[_HEAD_WORDS:]
        if len(set(word)) == 2 and not reserved & set(word) and [tag for _, tag in jieba.tag(word)] == ["n"]
    ]
    return Dictionary(words, [frequencies[word] for word in words], names)


def _characters() -> Iterator[str]:
    """Yield the common characters: level 1 of GB 2312."""
    for row in range(0xB0, 0xD8):
        for cell in range(0xA1, 0xFF if row < 0xD7 else 0xFA):
            yield bytes([row, cell]).decode("gb2312")


class Lexicon:
    """The names of topics, concepts and styles. A token is a number; `tokens` has its text.

    A concept has two names that share no character, so that only reading many notes shows that they mean one thing.
    Names of concepts and flavours of topics occur only in their own notes.
    """

    def __init__(self, dice: Dice, n_topics: int) -> None:
        all_words = dictionary()
        self.n_concepts = n_topics * CONCEPTS_PER_TOPIC
        order = np.argsort(dice.bits("words", np.arange(len(all_words.names))), kind="stable")
        names = iter([all_words.names[i] for i in order.tolist()])
        pairs: list[tuple[str, str]] = []
        waiting: list[str] = []
        while len(pairs) < self.n_concepts:
            name = next(names)
            partner = next((earlier for earlier in waiting if not set(earlier) & set(name)), None)
            if partner is None:
                waiting.append(name)
            else:
                waiting.remove(partner)
                pairs.append((partner, name))
        flavours = [next(names) for _ in range(n_topics * FLAVOURS_PER_TOPIC)]
        special = {*flavours, *(name for pair in pairs for name in pair)}
        common = [(word, n) for word, n in zip(all_words.words, all_words.counts, strict=True) if word not in special]

        self.tokens: list[str] = [""]
        self.concepts = self._add([name for pair in pairs for name in pair]).reshape(-1, 2)
        self.flavours = self._add(flavours).reshape(n_topics, -1)
        self.styles = self._add(STYLES)
        self.concept_tags = self._add([f"#{name}[话题]# " for pair in pairs for name in pair]).reshape(-1, 2)
        self.flavour_tags = self._add([f"#{name}[话题]# " for name in flavours]).reshape(n_topics, -1)
        self.style_tags = self._add([f"#{style}[话题]# " for style in STYLES])
        self.punctuation = self._add(PUNCTUATION)
        self.stickers = self._add(STICKERS)
        self.emoji = self._add(EMOJI)
        self.separators = self._add(["｜", "，", "！", " "])
        self.end, self.line = (int(token) for token in self._add(["。", "\n"]))
        words = self._add([word for word, _ in common])
        bounds = np.cumsum([n for _, n in common], dtype=float)
        steps = (np.arange(1 << _LOOKUP_BITS) + 0.5) / (1 << _LOOKUP_BITS) * bounds[-1]
        self.common = words[np.searchsorted(bounds, steps)].astype(np.int32)
        """Common words, repeated by frequency: a uniform draw of a position is a word of the language."""

    def _add(self, texts: list[str] | tuple[str, ...]) -> Ints:
        first = len(self.tokens)
        self.tokens.extend(texts)
        return np.arange(first, len(self.tokens))
