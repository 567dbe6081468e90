from __future__ import annotations

import asyncio

from qilin_rag.core.types import Note, RenderedPrompt
from qilin_rag.llms.extractive import Extractive

COFFEE = Note(note_idx=1, title="冷萃咖啡", content="粗研磨80克。冷水800毫升！\n冷藏12小时再喝[赞R] #咖啡[话题]#")
PLANT = Note(note_idx=2, title="多肉", content="夏天断水。保持通风。")


def test_it_answers_with_sentences_of_the_notes_in_reading_order() -> None:
    assert Extractive().read("冷萃咖啡怎么做", [COFFEE]) == "粗研磨80克。\n冷水800毫升！\n冷藏12小时再喝"


def test_the_matching_note_is_read_first() -> None:
    assert Extractive(max_chars=12).read("多肉夏天怎么养", [COFFEE, PLANT]) == "夏天断水。\n保持通风。"


def test_without_notes_it_says_nothing() -> None:
    prompt = RenderedPrompt([{"role": "user", "content": "q"}], "q", [], 0)
    completion = asyncio.run(Extractive().generate(prompt))
    assert (completion.text, completion.finish_reason) == ("", "stop")


def test_the_length_is_bounded_and_repeats_are_left_out() -> None:
    for max_chars in (1, 5, 20, 100):
        text = Extractive(max_chars=max_chars).read("咖啡", [COFFEE, COFFEE, PLANT])
        assert len(text.replace("\n", "")) <= max_chars
        lines = text.splitlines()
        assert len(lines) == len(set(lines))
