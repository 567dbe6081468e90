"""Which markers are citations, what they name, and that nothing but them is removed: one table for all who ask."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core.citation_markers import FORMS, find_markers
from qilin_rag.core.text import cited_numbers, strip_markup
from qilin_rag.scorers.contains import Contains
from qilin_rag.scorers.rouge import RougeL

MARKERS = [
    # platforms and prompts
    ("[第1篇](#)", [1]),
    ("[笔记一](#a)", [1]),
    ("[第1篇、第3篇](#)", [1, 3]),
    ("[1]", [1]),
    ("［１］", [1]),
    ("[1][2]", [1, 2]),
    ("[1,2]", [1, 2]),
    ("[1;2]", [1, 2]),
    ("[1-3]", [1, 2, 3]),
    ("[第1、3篇]", [1, 3]),
    ("[第二十三篇](#)", [23]),
    ("[#1]", [1]),
    ("[笔记1]", [1]),
    ("[笔记1、笔记2]", [1, 2]),
    ("[Note 1]", [1]),
    ("【第1篇】", [1]),
    ("【笔记1】", [1]),
    ("【1】", [1]),
    ("【1、2】", [1, 2]),
    ("（第1篇）", [1]),
    ("（第1篇笔记）", [1]),
    ("(Notes 1-2)", [1, 2]),
    ("（参考笔记1、3）", [1, 3]),
    ("（见第2篇）", [2]),
    # search engines' prompts and models
    ("[citation:1]", [1]),
    ("[citation: 1, 2]", [1, 2]),
    ("[citation:1][citation:2]", [1, 2]),
    ("[cite: 1]", [1]),
    ("[^1^]", [1]),
    ("[^1^][^2^]", [1, 2]),
    ("[^1]", [1]),
    ("【4:0†source】", [4]),
    ("【13†source】", [13]),
    ("【1†L3-L5】", [1]),
    ("[1†source]", [1]),
    ("<sup>1</sup>", [1]),
    ("<SUP>1, 2</SUP>", [1, 2]),
    ("<sup>[1]</sup>", [1]),
    ("<sup>[1](https://a.example/b_(c))</sup>", [1]),
    ("<ref>1</ref>", [1]),
    ("<cite>1</cite>", [1]),
    ("〔1〕", [1]),
    ("[来源1]", [1]),
    ("[来源:1]", [1]),
    ("[来源：1]", [1]),
    ("[参考1]", [1]),
    ("[参考资料1]", [1]),
    ("[资料1]", [1]),
    ("[source 1]", [1]),
    ("[Source 1, Source 2]", [1, 2]),
    ("[ref 1]", [1]),
    ("[doc 1]", [1]),
    ("[Doc. 1]", [1]),
    ("（来源1）", [1]),
    ("(来源：笔记1、笔记2)", [1, 2]),
    # links
    ("[1](https://e.example/a)", [1]),
    ("[1](<https://e.example/a>)", [1]),
    ('[1](https://e.example "标题")', [1]),
    ("[1]()", [1]),
    ("[[1]]", [1]),
    ("[[1]](https://e.example/a?b=1&c=2)", [1]),
    # brackets that hold nothing else
    ("([2])", [2]),
    ("（[第3篇](#)）", [3]),
    ("([1], [2])", [1, 2]),
    ("（参考：[1][2]）", [1, 2]),
    ("^[1]^", [1]),
    ("^1^", [1]),
    ("$^{[1]}$", [1]),
    # signs
    ("¹", [1]),
    ("¹²", [12]),
    ("¹,²", [1, 2]),
    ("¹⁻³", [1, 2, 3]),
    ("①", [1]),
    ("①②", [1, 2]),
    ("①、⑳", [1, 20]),
    # lists in words
    ("(Notes 1 and 3)", [1, 3]),
    ("[1 and 3]", [1, 3]),
    ("[1, 2, and 3]", [1, 2, 3]),
    ("[Note 1 & 2]", [1, 2]),
    ("(see Note 1 and Note 2)", [1, 2]),
    ("（第1篇和第3篇）", [1, 3]),
    ("[笔记一、三]", [1, 3]),
    ("[2-12]", list(range(2, 13))),
    # what products write
    ("[^1^,^2^]", [1, 2]),
    ("[^1^, ^2^, ^3^]", [1, 2, 3]),
    ("[①]", [1]),
    ("[①②]", [1, 2]),
    ('<sup><a href="#1">1</a></sup>', [1]),
    ('<sup class="ref"><a href="https://e.example">[1]</a></sup>', [1]),
    ('<sup class="ref">1</sup>', [1]),
    ("$^{1}$", [1]),
    ("$^{1,2}$", [1, 2]),
    (r"\[1\]", [1]),
    (r"\[1, 2\]", [1, 2]),
    ("【^1^】", [1]),
    ("[source_1]", [1]),
    ("[doc_1]", [1]),
    ("[doc_1, doc_2]", [1, 2]),
    ("[web:1]", [1]),
    ("[webpage 1]", [1]),
    ("[网页1]", [1]),
    ("（网页1、2）", [1, 2]),
    ("[搜索结果1]", [1]),
    ("[注1]", [1]),
    ("[第1条笔记]", [1]),
    ("[ID:1]", [1]),
    ("##1$$", [1]),
    ("[1](note1)", [1]),
    ("[3篇](https://e.example)", [3]),
    ("[3篇](#)", [3]),
    ("[#3篇]", [3]),
    # lists of markers
    ("[1]、[2]、[3]", [1, 2, 3]),
    ("[1], [2]", [1, 2]),
    ("【1】【2】", [1, 2]),
    ("【1】，【2】", [1, 2]),
    # as a reader sees it
    ("[1\u200b]", [1]),
    ("\ufeff[\u2060citation:1]", [1]),
    ("**[1]**", [1]),
    ("[**1**]", [1]),
    ("`[1]`", [1]),
    (" [1]", [1]),
]
NONE = [
    "于[2024]年，国发〔2024〕1号，【2024】，[citation:100]，<sup>2024</sup>",
    "(1)先晾干，(2)再装；（1）先晾干",
    "【1】准备\n【2】下锅，见 【3】",
    "①先晾干；②再装。\n③装盆",
    "步骤①，做完看图②。选③或④。",
    "50米²，3 m²，2³，10⁵，面积3m<sup>2</sup>，x^2^\n¹开头",
    "[^1]: 冷萃指南\n[^2]：手冲指南\n[3]: https://e.example",
    "#家常菜[话题]# 好吃[笑哭R]",
    "去[店铺](https://e.example/a)看，[3天](https://e.example)",
    "- [x] 买豆\n- [ ] 磨豆",
    "推荐（3篇），（笔记10篇），（10篇笔记），[3篇]，【3篇】，（约3篇、10篇），（10条笔记），【第】3篇",
    "方法：【1】先洗【2】再煮【3】装盘",
    "满【10】减【5】，吃了【3】碗，满【10】减【5】",
    "约[30]分钟，打[98]折，[3]岁，[12]楼，吃[2]碗，第[3]次，[5]元，[1-3]天，[20-30]度，[50]%，[3]小时，[3]篇",
    "[五一]去哪玩，我[十一]去，[三八]，[五一](https://e.example)，<sup>二</sup>，〔一〕，[二十三]",
    "温度[60-80]，[1-99]，（笔记1-50），[2-13]",
    "正确的是选项③。答案是②，这类①，名①，型②",
    "[3-5天] [1/3] [1:3] [12:30] 【12:30】 (第3天) 第1篇 [第2天] [笔记] [^笔记^] a[100] [1",
]


@pytest.mark.parametrize(("marker", "numbers"), MARKERS)
def test_a_marker_names_its_notes_and_nothing_else_goes_with_it(marker: str, numbers: list[int]) -> None:
    answer, reference = f"先登录官网预约门票{marker}，再带身份证入园{marker}。", "先登录官网预约门票，再带身份证入园。"
    assert cited_numbers(answer) == numbers * 2
    assert strip_markup(answer) == reference
    assert RougeL().score_answers([answer], [[reference]]) == [1.0]
    assert RougeL().score_answers([reference], [[answer]]) == [1.0]
    assert Contains().score_answers([answer, reference], [[reference], [answer]]) == [1.0, 1.0]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_citation_stays(text: str) -> None:
    assert cited_numbers(text) == []
    assert strip_markup(text) == text


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("Dry it first [1], then fill [2].", "Dry it first, then fill."),
        ("Use cold [1] water [2]", "Use cold water"),
        ("spf50[1]abc，Ａ[1]Ｂ", "spf50 abc，Ａ Ｂ"),
        ("先晾干 [1] 再装", "先晾干 再装"),
        ("先晾干。[1]\n[2]再装", "先晾干。\n再装"),
        ("先[1](见下文)", "先(见下文)"),  # what stands in brackets behind a marker is no address
        ("见[1]和[2]", "见和"),
        ("它[3分钟](#)好", "它好"),  # links to nowhere are the platform's
        ("好吃[1]、[2]、[3]。", "好吃。"),
        ("[1], [2].", "."),
        ("好吃[1]，再煮[2]", "好吃，再煮"),
        ("做法[1]个人觉得[2]天气[3]日常[4]分享", "做法个人觉得天气日常分享"),
        ("先洗[笔记1]次日再煮[1,2]元宵", "先洗次日再煮元宵"),
    ],
)
def test_words_neither_run_together_nor_stand_apart(marked: str, plain: str) -> None:
    assert strip_markup(marked) == plain


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.example)
def test_each_form_finds_its_own_example(form: tuple[str, str]) -> None:
    example, pattern = form
    assert re.search(pattern, example, re.IGNORECASE)
    assert find_markers(example)


PIECES = [
    "[1",
    "]",
    "[",
    "](#",
    ")",
    "(",
    "（笔记",
    "1",
    "12",
    "十一",
    "、",
    " ",
    "第",
    "篇",
    "笔记",
    "note ",
    "参考",
    "^",
]
PIECES += [
    "【",
    "】",
    "†",
    "<sup>",
    "</sup>",
    "①",
    "¹",
    "\n",
    "先",
    "https://a",
    ":",
    "-",
    "citation:",
    "[[1]]",
    "\0",
    "**",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_text_is_read_and_stripped_once_and_for_all(text: str) -> None:
    assert all(0 <= number <= 99 for number in cited_numbers(text))
    spans = [(marker.start, marker.end) for marker in find_markers(text.replace("\0", ""))]
    assert all(start < end for start, end in spans)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.parametrize("piece", [*PIECES, "[1,", "（笔记1", "[1篇笔记", "[note 1 ", "[1](https://a(", "([[1]]"])
def test_no_repeat_takes_a_search_astray(piece: str) -> None:
    """Exponential time would not end."""
    cited_numbers(piece * 3000)
    strip_markup(f"[{piece * 3000}")
