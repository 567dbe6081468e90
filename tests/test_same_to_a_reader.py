"""Text that is the same to a reader gives the same tokens, scores, rankings, clusters, references and verdicts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.text import cited_numbers, mixed_tokens, normalise, query_key, sentences, simplify, visible, words
from qilin_rag.core.types import Note, Question
from qilin_rag.data import load_dataset
from qilin_rag.judging.nugget_verdicts import read_facts, read_support
from qilin_rag.judging.verdicts import read_preference, read_refusal, read_score, read_true_false
from qilin_rag.rankers.passages import matching_part
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.scorers import AnswerScorer
from tests.conftest import Cli, write_jsonl

JOINERS = "\u200c\u200d" + "".join(map(chr, range(0xE0020, 0xE0080)))  # they act on what stands beside them
_IGNORABLE = regex.compile(r"\p{Default_Ignorable_Code_Point}")
INVISIBLE = [c for c in map(chr, (*range(0xD800), *range(0xE000, 0xE1000))) if _IGNORABLE.match(c) and c not in JOINERS]
INVISIBLE_ONES = "\xad\u034f\u061c\u115f\u17b4\u180b\u180e\u200b\u200e\u202e\u2060\u2069\u3164"
INVISIBLE_ONES += "\x00\x1b\x9f\u2800\ufff9"
INVISIBLE_ONES += "\ufe00\ufe0f\ufeff\uffa0\ufff0\U0001bca0\U0001d173\U000e0000\U000e0001\U000e0100\U000e0fff"
FAMILY, TECHNOLOGIST, HEART_ON_FIRE, PIRATES = (
    "👨\u200d👩\u200d👧",
    "👩🏽\u200d💻",
    "❤\ufe0f\u200d🔥",
    "🏴\u200d☠\ufe0f",
)
ENGLAND = "🏴" + "".join(chr(0xE0000 + ord(c)) for c in "gbeng") + "\U000e007f"
SCOTLAND = "🏴" + "".join(chr(0xE0000 + ord(c)) for c in "gbsct") + "\U000e007f"
PLAIN = "冷萃 Cold Brew：粗研磨，80克/800毫升[第1篇](#)。é가1️⃣❤️好"


@st.composite
def spoiled(draw: Any, text: str = PLAIN) -> str:
    """The text with invisible code points anywhere."""
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from(INVISIBLE_ONES)) + text[place:]
    return text


def casefolded(char: str) -> str:
    """NFKC_Casefold of a code point by its definition in the Unicode standard (D145 to D147, X5)."""
    for _ in range(3):
        char = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", char).casefold())
    return "".join(c for c in char if not _IGNORABLE.match(c))


def test_every_code_point_is_folded_as_unicode_says_or_looks_like_another() -> None:
    """What is ours beyond toNFKC_Casefold: radicals, hyphens, a bar, a wave dash, a colon, spaces, controls."""
    planes = (*range(0xD800), *range(0xE000, 0x10E00), *range(0x1D400, 0x1FC00), *range(0x2F800, 0x2FA20))
    ours = {c for c in map(chr, planes) if not "\u3400" <= c <= "\u9fff" and normalise(c) != casefolded(c)}
    unseen = {c for c in ours if not normalise(c)}
    assert unseen == {c for c in map(chr, range(0xA0)) if unicodedata.category(c) == "Cc" and not c.isspace()} | set(
        "\u2800\ufff9\ufffa\ufffb"
    )
    others = {c for c in ours - unseen if "CJK RADICAL" not in unicodedata.name(c, "")}
    assert others == set("‐‑―〜∶⼾\r\x85\u2028\u2029\u1680")
    assert len(INVISIBLE) > 4000
    assert not any(map(normalise, INVISIBLE))


@given(st.text())
def test_folding_is_idempotent_and_knows_no_other_spelling(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert visible(visible(text)) == visible(text)
    assert normalise(visible(text)) == normalise(text)
    assert normalise(unicodedata.normalize("NFD", text)) == normalise(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("冷\u200b萃\ufeff", "冷萃"),
        ("cof\u00adfee", "coffee"),
        ("\u202e冷萃\u202c\u2066 \u2069", "冷萃 "),
        ("葛\U000e0100城\ufe00", "葛城"),
        ("❤\ufe0f❤\ufe0e1\ufe0f\u20e3", "❤❤1\u20e3"),
        ("가\u3164\uffa0\u115f", "가"),
        ("⼈⺠⻅⻓⻰⼾", "人民见长龙户"),
        ("冷⠀萃⠀咖啡", "冷萃咖啡"),
        ("a\x07b\x00\x7f\ufff9c", "abc"),
        ("12∶30", "12:30"),
        ("H₂O m² ①", "h2o m2 1"),
        ("金樂\uf9fb", "金樂炙"),  # compatibility ideographs
        ("ＳＰＦ５０＋（日）", "spf50+(日)"),
        ("a\xa0b\u3000c\u2009d\u202fe", "a b c d e"),
        ("一\r\n二\r三\u2028四\u2029五", "一\n二\n三\n四\n五"),
        ("e\u0301 \u1112\u1161\u11ab ß ΟΔΟΣ ﬁ Å", "é 한 ss οδοσ fi å"),
        ("non\u2011stop", "non-stop"),
        ("a\u200db冷\u200d萃", "ab冷萃"),  # a joiner of nothing
        ("👩\u200d\u200d💻", "👩💻"),
        ("می\u200cخواهم", "میخواهم"),
    ],
)
def test_what_a_reader_cannot_tell_apart_is_one(one: str, other: str) -> None:
    assert normalise(one) == normalise(other) == other.casefold()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FAMILY, "👨👩👧"),
        (TECHNOLOGIST, "👩🏽💻"),
        (HEART_ON_FIRE, "❤🔥"),
        (PIRATES, "🏴☠"),
        (ENGLAND, SCOTLAND),
        (ENGLAND, "🏴"),
        ("👍🏽", "👍"),
        ("“冷”", '"冷"'),
        ("冷—萃", "冷-萃"),
        ("А", "A"),  # Cyrillic
        ("發", "发"),
        ("1\u20e3", "1"),
        ("10² 米", "102米"),
        ("10⁵", "105"),
        ("１０¹²", "1012"),
        ("10₂", "102"),
        ("10²", "10₂"),
        ("1½", "11⁄2"),
        ("3①", "31"),
    ],
)
def test_what_a_reader_can_tell_apart_stays_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_emoji_that_are_joined_are_one_token_and_no_token_is_invisible() -> None:
    text = f"{FAMILY}{TECHNOLOGIST}在{ENGLAND}\u200b{HEART_ON_FIRE}{PIRATES}\u200d\u2060"
    seen = [FAMILY, TECHNOLOGIST, "在", ENGLAND, HEART_ON_FIRE.replace("\ufe0f", ""), PIRATES.replace("\ufe0f", "")]
    assert mixed_tokens(normalise(text)) == seen


def test_lines_end_at_any_line_end() -> None:
    assert sentences("一\r二\r\n三\u2028四\x85五") == ["一", "二", "三", "四", "五"]


@given(spoiled())
def test_invisible_code_points_change_no_token(text: str) -> None:
    assert visible(text) == visible(PLAIN)
    assert mixed_tokens(normalise(text)) == mixed_tokens(normalise(PLAIN))
    assert words(normalise(text)) == words(normalise(PLAIN))
    assert cited_numbers(text) == [1]
    for analyze in (ANALYZERS[name] for name in ("word", "char", "cjk-bigram")):
        assert analyze(text) == analyze(PLAIN)


METRICS = ("rouge_l", "rouge_2", "bleu", "chrf", "contains", "length_ratio")
WORDS = ("rouge_l", {"tokens": "word"})
SCORING: list[AnswerScorer] = [
    SCORERS.create(metric, its) for metric, its in (*((metric, {}) for metric in METRICS), WORDS)
]
ANSWER, REFERENCE = "粗研磨Cold Brew粉80克，冷藏【第1篇】。", "Cold brew：粗研磨，80克。"


@settings(max_examples=30)
@given(st.lists(st.tuples(spoiled(ANSWER), spoiled(REFERENCE)), min_size=1, max_size=3))
def test_invisible_code_points_change_no_score(pairs: list[tuple[str, str]]) -> None:
    answers, references = [ANSWER, *(pair[0] for pair in pairs)], [[REFERENCE], *([pair[1]] for pair in pairs)]
    for scorer in SCORING:
        plain, *others = scorer.score_answers(answers, references)
        assert others == [plain] * len(pairs)


@given(spoiled("手冲 Ａ咖啡"), spoiled("手冲a 咖啡"))
def test_invisible_code_points_change_no_cluster(one: str, other: str) -> None:
    assert query_clusters([one, "冷萃", other]).tolist() == [0, 1, 0]
    assert query_key(one) == query_key(other) == "手冲a咖啡"


@given(spoiled("理由：好。\n正确性：4\n结论：A"), spoiled("True"))
def test_invisible_code_points_change_no_verdict(reply: str, said: str) -> None:
    assert (read_score(reply.replace("\n结论：A", ""), "正确性") or 4) == 4
    assert read_preference(reply) == "A"
    assert read_true_false(said) is True


@given(spoiled("理由：好。\n结论：拒答"), spoiled("1：支持\n2：不支持"), spoiled("核心 [1] 水温92度"))
def test_invisible_code_points_change_no_refusal_and_no_nugget(refusal: str, support: str, fact: str) -> None:
    assert read_refusal(refusal) is True and read_refusal(refusal, ["理由：好。\n结论：拒答"]) is None
    assert read_support(support, 2) == ["support", "not_support"]
    assert read_support(support, 2, ["1：支持"]) is read_support("1：支持\n2：不支持", 2, [support]) is None
    assert [each.text for each in read_facts(fact, 1) or []] == ["水温92度"]
    assert read_facts(fact, 1, ["核心 [1] 水温92度"]) is read_facts("核心 [1] 水温92度", 1, [fact]) is None


@pytest.mark.parametrize("spoil", ["\u200b", "\ufeff", "\u00ad", "\u2060", "\U000e0101", "\u180b", "\ufe0f"])
@pytest.mark.parametrize("where", ["query", "notes"])
@pytest.mark.parametrize("analyzer", ["word", "char", "cjk-bigram"])
def test_invisible_code_points_change_no_ranking(
    data_dir: Any, tmp_path: Any, spoil: str, where: str, analyzer: Any
) -> None:
    data = load_dataset(str(data_dir))
    plain = BM25(analyzer=analyzer).search(data.questions, data.notes, 5)
    questions: Sequence[Question] = data.questions
    if where == "query":
        questions = [each.model_copy(update={"query": spoil.join(each.query)}) for each in data.questions]
    else:
        spoiled_dir = tmp_path / "spoiled"
        spoiled_dir.mkdir()
        rows = [{**note.model_dump(), "content": spoil.join(note.content)} for note in data.notes]
        write_jsonl(spoiled_dir / "notes.jsonl", rows)
        (spoiled_dir / "dqa.jsonl").write_bytes((data_dir / "dqa.jsonl").read_bytes())
        data = load_dataset(str(spoiled_dir))
    assert BM25(analyzer=analyzer).search(questions, data.notes, 5) == plain


def test_queries_that_are_one_share_their_references_and_their_cluster(tmp_path: Any) -> None:
    queries = ["a b", "ab", "Ａ\u200bB", "a\u3000b", "abc"]
    answers = ["先晾干。", "先\u200b晾干。", "再装。", "先晾干。", "别的。"]
    write_jsonl(tmp_path / "notes.jsonl", [{"note_idx": 1, "title": "t", "content": "c"}])
    write_jsonl(
        tmp_path / "dqa.jsonl",
        [
            {"search_idx": i, "query": query, "answers": [answer], "ref_note_idx_list": [1]}
            for i, (query, answer) in enumerate(zip(queries, answers, strict=True))
        ],
    )
    questions = load_dataset(str(tmp_path), references="query").questions
    shared = {question.id: question.references for question in questions}
    assert shared["0"] == ["先晾干。", "再装。"]
    assert shared["1"] == ["先\u200b晾干。", "再装。"]  # its own first, each text once
    assert shared["4"] == ["别的。"]
    assert query_clusters(queries).tolist() == [0, 0, 0, 0, 1]


def test_an_answer_that_nobody_can_see_is_a_defect(tmp_path: Any) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [{"note_idx": 1, "title": "t", "content": "c"}])
    write_jsonl(tmp_path / "dqa.jsonl", [{"search_idx": 1, "query": "q", "answers": ["\u200b \ufeff"]}])
    with pytest.raises(UsageError, match="answers"):
        load_dataset(str(tmp_path))


TRADITIONAL, SIMPLIFIED = "乾燥後的頭髮，裡面的咖啡機", "干燥后的头发，里面的咖啡机"


def test_simplified_characters_are_an_option(data_dir: Any) -> None:
    assert simplify(TRADITIONAL) == SIMPLIFIED
    for metric, its in (*((metric, {}) for metric in METRICS if metric != "length_ratio"), WORDS):
        as_is, simplified = SCORERS.create(metric, its), SCORERS.create(metric, {**its, "simplify": True})
        assert simplified.score_answers([TRADITIONAL], [[SIMPLIFIED]]) == pytest.approx([1.0])
        assert as_is.score_answers([TRADITIONAL], [[SIMPLIFIED]])[0] < 1
        assert "simplif" not in str(as_is.signatures())
        assert "han:simplified" in simplified.signatures()[metric]
        assert "simplify" not in as_is.identity()
        assert simplified.identity()["simplify"] is True
    notes = load_dataset(str(data_dir)).notes
    asked = [Question(id="1", query="過濾", references=["a"])]
    for analyzer in ("word", "char", "cjk-bigram"):
        assert BM25(analyzer=analyzer).search(asked, notes, 1) == [[]]
        [[hit]] = BM25(analyzer=analyzer, simplify=True).search(asked, notes, 1)
        assert hit.note_idx == 10
    assert BM25(simplify=True).index_identity() != BM25().index_identity()


def test_simplified_characters_without_opencc_are_one_line(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda name: None)
    for overrides in (["retriever.simplify=true", "--retriever", "bm25"], ["metrics.rouge_l.simplify=true"]):
        done = cli("run", "--data", "sample", "--limit", 2, "--set", *overrides)
        assert done.code == 2
        assert "pip install 'qilin-rag[han]'" in done.err


@given(spoiled("正文Ａ"))
def test_an_encoder_reads_what_a_reader_sees(text: str) -> None:
    note = Note(note_idx=1, title="题\u200b目", content=text)
    assert visible(note.text) == "题目 正文Ａ"


def test_texts_of_encoders_are_visible() -> None:
    from qilin_rag.models.sentence_encoder import readable

    class Short:
        max_seq_length = 8

    read: Callable[[str], str] = lambda text: readable(Short(), text)  # noqa: E731
    assert read("冷\u200b萃\ufeffＡ") == "冷萃Ａ"
    assert read("\u200b") == read("") == " "


def test_the_part_of_a_note_that_a_query_is_about_is_found_through_invisible_code_points() -> None:
    note = Note(note_idx=1, title="题", content="无关" * 20 + "\u200b".join("冷萃咖啡粗研磨") + "别的" * 20)
    assert "冷\u200b萃\u200b咖" in matching_part(note, "冷萃\ufeff咖啡", 20)
