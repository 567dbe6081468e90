"""The sentences of an answer, each with the numbers of the notes that it cites."""

from __future__ import annotations

import pytest

from qilin_rag.core.cited_sentences import cited_sentences


@pytest.mark.parametrize(
    ("answer", "sentences"),
    [
        ("水温92度[1]。闷蒸30秒[第2篇](#)。", [("水温92度。", [1]), ("闷蒸30秒。", [2])]),
        ("水温92度。[1]闷蒸30秒。[2][3]", [("水温92度。", [1]), ("闷蒸30秒。", [2, 3])]),
        ("先遮阴[1, 3]，再断水[2-4]！", [("先遮阴，再断水！", [1, 3, 2, 3, 4])]),
        ("先遮阴[1;2]。断水（第3篇；第4篇）。", [("先遮阴。", [1, 2]), ("断水。", [3, 4])]),
        ("[1] 先遮阴\n[2] 再断水", [("先遮阴", [1]), ("再断水", [2])]),
        ("先遮阴\n[2]\n再断水", [("先遮阴", [2]), ("再断水", [])]),
        ("[2]\n先遮阴", [("先遮阴", [2])]),
        ("**先遮阴**【第十二篇】。", [("先遮阴。", [12])]),
        ("见[笑哭R][a][2024](x)(#)。", [("见[笑哭R][a][2024](x)(#)。", [])]),
        ("nul\0 [1] is no marker", [("nul is no marker", [1])]),
        ("“水温92度。”[1]闷蒸30秒。[2]", [("“水温92度。”", [1]), ("闷蒸30秒。", [2])]),
        ("（先遮阴。）[1]再断水！》[2]", [("（先遮阴。）", [1]), ("再断水！》", [2])]),
        ("先遮阴。[1]”再断水", [("先遮阴。”", [1]), ("再断水", [])]),
        ('他说"先遮阴。"[1]', [('他说"先遮阴。"', [1])]),
        ("先遮阴！😊[1] 再断水", [("先遮阴！😊", [1]), ("再断水", [])]),
        ("先遮阴。😊😊[1]", [("先遮阴。😊😊", [1])]),
        ("先遮阴[1]\n---\n", [("先遮阴", [1]), ("---", [])]),
        ("先遮阴\n😊[1]\n---\n[2]", [("先遮阴", [1, 2]), ("😊", []), ("---", [])]),
        ("---\n[1]\n先遮阴", [("---", []), ("先遮阴", [1])]),
        ("“先遮阴”。“再断水”。[2]", [("“先遮阴”。", []), ("“再断水”。", [2])]),
        ("Dry it [1]. Water it. [2] Wait.", [("Dry it.", [1]), ("Water it.", [2]), ("Wait.", [])]),
        (
            "It takes 30 s [1]. 再浇水. Then “rest.” Go.",
            [("It takes 30 s.", [1]), ("再浇水.", []), ("Then “rest.”", []), ("Go.", [])],
        ),
        (
            "1. Dry it[1]\nStep 2. Water 1.5 l, e.g. Tap water [2]",
            [("1. Dry it", [1]), ("Step 2. Water 1.5 l, e.g. Tap water", [2])],
        ),
        (
            "Ask Dr. Li of U.S. Tea Co. at 92. Then (J. Smith) wait.",
            [("Ask Dr. Li of U.S. Tea Co. at 92.", []), ("Then (J. Smith) wait.", [])],
        ),
        ("[1][2]", []),
        ("", []),
    ],
)
def test_markers_become_citations_of_their_sentence(answer: str, sentences: list[tuple[str, list[int]]]) -> None:
    assert cited_sentences(answer) == sentences
