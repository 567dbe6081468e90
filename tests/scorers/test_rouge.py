from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from qilin_rag.core.text import clean, mixed_tokens, normalise, strip_markup
from qilin_rag.core.types import Question, Sample
from qilin_rag.scorers import token_strings
from qilin_rag.scorers.rouge import Rouge, Rouge1, Rouge2, RougeL, lcs_f1

CHINESE = "冷萃咖啡怎么做多肉夏天浇水的了一是不我有在这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会"
ENGLISH = ["the", "coffee", "machine", "SPF50", "cold-brew", "a", "I", "WiFi", "3.14", "don't"]
EMOJI = ["😀", "👨‍👩‍👧", "1️⃣", "🇨🇳", "❗", "☕️"]
KINDS = {"rouge1": Rouge1(), "rouge2": Rouge2(), "rougeL": RougeL()}
MARKUP = ["[第1篇](#)", "**", "`", "__", "[1]", "\n", "　", "Ｆｕｌｌ", "ﾊﾝｶｸ"]


class SameTokens:
    """Our tokens, for rouge_score."""

    def __init__(self, scorer: Rouge) -> None:
        self._scorer = scorer

    def tokenize(self, text: str) -> list[str]:
        return list(self._scorer.tokenize(text))


def theirs(scorer: Rouge) -> Any:
    return rouge_scorer.RougeScorer(list(KINDS), tokenizer=SameTokens(scorer))


def random_text(rng: random.Random, n_parts: int) -> str:
    kinds: list[Any] = rng.choice(
        [[CHINESE], [ENGLISH], [CHINESE, ENGLISH], [CHINESE, EMOJI], [CHINESE, ENGLISH, EMOJI, MARKUP], [EMOJI]]
    )
    glue = rng.choice(["", " "])
    return glue.join(rng.choice(rng.choice(kinds)) for _ in range(n_parts))


@pytest.mark.slow
def test_ten_thousand_pairs_equal_rouge_score() -> None:
    rng = random.Random(20261121)
    answers = [random_text(rng, rng.choice([0, 1, 5, 20, 60])) for _ in range(9_990)]
    targets = [random_text(rng, rng.choice([0, 1, 5, 20, 60])) for _ in range(9_990)]
    long = [random_text(rng, 1_500) for _ in range(10)]
    answers += long
    targets += [*long[5:], *long[:5]]
    for scorer in (RougeL(), RougeL(tokens="word")):
        some = range(0, len(answers), 20 if scorer.tokens == "word" else 1)
        oracle = theirs(scorer)
        mine = scorer.score_answers([answers[i] for i in some], [[targets[i]] for i in some])
        for value, i in zip(mine, some, strict=True):
            assert abs(value - oracle.score(targets[i], answers[i])["rougeL"].fmeasure) <= 1e-9


def test_the_best_reference_counts_as_in_rouge_score() -> None:
    rng = random.Random(5)
    oracle = theirs(RougeL())
    for _ in range(200):
        answer, *targets = (random_text(rng, rng.randint(0, 30)) for _ in range(4))
        wanted = oracle.score_multi(targets, answer)
        for kind, scorer in KINDS.items():
            [mine] = scorer.score_answers([answer], [targets])
            assert mine == pytest.approx(wanted[kind].fmeasure, abs=1e-9)


few_tokens = st.text(alphabet="冷萃咖啡a 1*[]。", max_size=25)  # so few characters that many n-grams repeat


@given(few_tokens, st.lists(few_tokens | st.text(max_size=25).map(clean), min_size=1, max_size=3))
def test_every_kind_equals_rouge_score(answer: str, targets: list[str]) -> None:
    wanted = theirs(RougeL()).score_multi(targets, answer)
    for kind, scorer in KINDS.items():
        [mine] = scorer.score_answers([answer], [targets])
        assert abs(mine - wanted[kind].fmeasure) <= 1e-12


@pytest.mark.parametrize(
    ("answer", "target", "rouge_1", "rouge_2"),
    [
        ("咖啡", "咖啡", 1.0, 1.0),
        ("咖", "咖", 1.0, 0.0),  # no pair in a single token
        ("咖啡咖啡", "咖啡", 2 / 3, 1 / 2),  # repeats count as often as they stand on both sides
        ("啡咖", "咖啡", 1.0, 0.0),
        ("用spf50+", "SPF50", 1 / 2, 0.0),
        ("咖啡", "", 0.0, 0.0),
        ("茶", "咖啡", 0.0, 0.0),
    ],
)
def test_ngrams_by_hand(answer: str, target: str, rouge_1: float, rouge_2: float) -> None:
    assert Rouge1().score_answers([answer], [[target]]) == pytest.approx([rouge_1])
    assert Rouge2().score_answers([answer], [[target]]) == pytest.approx([rouge_2])
    oracle = theirs(RougeL()).score(target, answer)
    assert (oracle["rouge1"].fmeasure, oracle["rouge2"].fmeasure) == pytest.approx((rouge_1, rouge_2))


@given(st.text(max_size=60))
def test_identical_text_scores_one_unless_nothing_is_left_of_it(value: str) -> None:
    value = clean(value)
    [score] = RougeL().score_answers([value], [[value]])
    assert score == (1.0 if normalise(strip_markup(value)).split() else 0.0)


def test_by_hand() -> None:
    assert lcs_f1("ABCBDAB", "BDCABA") == 2 * (4 / 7) * (4 / 6) / (4 / 7 + 4 / 6)
    assert lcs_f1([], ["a"]) == lcs_f1(["a"], []) == lcs_f1([], []) == lcs_f1(["a"], ["b"]) == 0.0
    assert lcs_f1(["粗研磨", "咖啡"], ["咖啡"]) == pytest.approx(2 / 3)


def test_rouge_scores_own_tokenizer_would_drop_chinese() -> None:
    """The silent error that the tokens are there to avoid."""
    naive = rouge_scorer.RougeScorer(["rougeL"])
    assert naive.score("冷萃咖啡", "冷萃咖啡")["rougeL"].fmeasure == 0
    assert RougeL().score_answers(["冷萃咖啡"], [["冷萃咖啡"]]) == [1.0]


def test_markup_width_and_case_do_not_count() -> None:
    assert RougeL().score_answers(["**ＳＰＦ50**[第1篇](#)"], [["spf50"]]) == [1.0]
    assert RougeL(strip_markup=False).score_answers(["**spf50**"], [["spf50"]])[0] < 1


def test_signatures_tell_settings_apart() -> None:
    scorers = [RougeL(), RougeL(tokens="word"), RougeL(strip_markup=False)]
    assert len({scorer.signatures()["rouge_l"] for scorer in scorers}) == 3


def test_signatures_of_runs_made_before_stay_theirs() -> None:
    made = "strip:citations+emphasis|norm:nfkc_casefold"
    assert RougeL().signatures() == {"rouge_l": f"rouge_l|tokens:mixed|{made}|f1:lcs|refs:max|v2"}
    assert RougeL(tokens="word").signatures() == {"rouge_l": f"rouge_l|tokens:word|{made}|f1:lcs|refs:max|v2"}
    assert Rouge1().signatures() == {"rouge_1": f"rouge_1|tokens:mixed|{made}|f1:1-grams|refs:max|v2"}
    assert Rouge2(strip_markup=False).signatures() == {
        "rouge_2": "rouge_2|tokens:mixed|strip:nothing|norm:nfkc_casefold|f1:2-grams|refs:max|v2"
    }


@pytest.mark.parametrize(
    ("status", "value", "reason"),
    [
        ("ok", 1.0, None),
        ("truncated", 1.0, None),
        ("failed", None, "failed"),
        ("filtered", None, "filtered"),
        ("empty", None, "empty"),
    ],
)
def test_which_answers_are_scored(status: Any, value: float | None, reason: str | None) -> None:
    sample = Sample(
        question_id="1",
        query="q",
        status=status,
        hits=[],
        notes_given=0,
        notes_used=0,
        messages=[],
        answer="好",
        raw="好",
    )
    [score] = RougeL().score([sample], [Question(id="1", query="q", references=["好"])])
    assert (score.value, score.reason) == (value, reason)


def test_an_empty_answer_scores_zero() -> None:
    assert RougeL().score_answers(["", "  "], [["好"], ["好"]]) == [0.0, 0.0]
    assert mixed_tokens("  ") == []


odd = "冷萃a1b \u200d\U0001f468\U0001f3f4\U000e0067\U000e007f\U000f0000\U000f0001\U0010ffff"
odd_tokens = st.text(alphabet=odd, max_size=20)


@given(odd_tokens, st.lists(odd_tokens, min_size=1, max_size=3))
def test_private_and_joined_characters_equal_rouge_score(answer: str, targets: list[str]) -> None:
    """Ours writes a token of several characters as one of private use."""
    wanted = theirs(RougeL()).score_multi(targets, answer)
    for kind, scorer in KINDS.items():
        [mine] = scorer.score_answers([answer], [targets])
        assert abs(mine - wanted[kind].fmeasure) <= 1e-12


@pytest.mark.parametrize("kind", ["mixed", "word"])
def test_more_words_than_private_characters(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_strings, "_LAST", token_strings._FIRST + 2)
    reference, answer = "one two three four 五五", "one three four six 五五"
    strings = token_strings.TokenStrings(reference, kind)
    assert not isinstance(strings.first, str)
    scorer = RougeL(tokens=kind)
    [mine] = scorer.score_answers([answer], [[reference]])
    assert mine == theirs(scorer).score(reference, answer)["rougeL"].fmeasure > 0.5
