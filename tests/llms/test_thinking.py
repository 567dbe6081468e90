"""Where a model's answer begins, by the markers that models emit; texts are made by hand after their templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.llms.thinking import MARKERS, seems_to_think, split_thinking

OPEN = st.sampled_from(["<think>", "<THINK>", "<Think >", "< think>", "＜think＞"])
CLOSE = st.sampled_from(["</think>", "</THINK>", "</ think >", "< / Think>", "＜／ｔｈｉｎｋ＞"])
SPACE = st.text(" \n\t　", max_size=3)
PROSE = st.text("想abc<>/ \n。think", max_size=30).filter(lambda text: "think" not in text)
ANSWER = PROSE.filter(lambda text: bool(text.strip()))
ANY_END = st.text().filter(lambda text: "final" not in text and not text.rstrip().endswith(("]", ">")))  # no end token

PAIRS = {
    "deepseek r1": ("<think>\n", "\n</think>\n\n"),
    "claude's prompts": ("<thinking>", "</thinking>"),
    "claude 3": ("<antThinking>", "</antThinking>"),
    "exaone deep": ("<thought>\n", "</thought>\n"),
    "marco-o1": ("<Thought>\n", "\n</Thought>\n"),
    "grpo": ("<reasoning>\n", "\n</reasoning>\n"),
    "reflection 70b": ("<reflection>", "</reflection>"),
    "hermes 3": ("<INNER_MONOLOGUE>", "</INNER_MONOLOGUE>"),
    "hermes 3, notes": ("<SCRATCHPAD>", "</SCRATCHPAD>"),
    "seed-oss": ("<seed:think>", "</seed:think>"),
    "minimax m3": ("<mm:think>", "</mm:think>"),
    "longcat": ("<longcat_think>\n", "\n</longcat_think>"),
    "hunyuan 3": ("<think:opensource>", "</think:opensource>"),
    "k2 horizon": ("<ifm|think_fast>\n", "</ifm|think_fast>"),
    "magistral": ("[THINK]", "[/THINK]"),
    "openpangu": ("[unused16]", "[unused17]"),
    "medgemma": ("<unused94>thought\n", "<unused95>"),
    "gemma 4": ("<|channel>thought\n", "<channel|>"),
    "sky-t1": ("<|begin_of_thought|>\n\n", "\n\n<|end_of_thought|>\n\n"),
    "command a": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "apertus": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "kimi k3": ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    "kimi 1.5": ("◁think▷", "◁/think▷"),
    "inkling": ("<|message_model|><|content_thinking|>", "<|end_message|>"),
    "solar open, closed by a tag": ("<|think|>", "<|/think|>"),
    "solar open": ("<|think|>", "<|end|><|begin|>assistant<|content|>"),
    "granite 3.2": ("Here is my thought process:\n", "\nHere is my response:\n"),
    "open webui": ('<details type="reasoning" done="true" duration="5">\n<summary>Thought</summary>', "</details>\n"),
    "gpt-oss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "gpt-oss, template's head": (
        "<|start|>assistant<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final <|constrain|>text<|message|>",
    ),
    "gpt-oss, tokens left out": ("analysis", "assistantfinal"),
    "gpt-oss, with a call": (
        "<|channel|>analysis<|message|>查一下<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        "<|constrain|>json<|message|>{}<|call|>",
        "<|start|>assistant<|channel|>final<|message|>",
    ),
}
CLOSED_ONLY = sorted(PAIRS.keys() - {"granite 3.2", "open webui", "inkling", "solar open", "gpt-oss, with a call"})


@pytest.mark.parametrize("model", PAIRS)
def test_the_answer_of_every_model_begins_behind_its_thinking(model: str) -> None:
    start, end = PAIRS[model]
    assert split_thinking(f"{start}先想一想。{end}答案。") == ("答案。", True)
    assert split_thinking(f"\ufeff \n{start}先想。\n\n再想。{end}\n答案。\n") == ("答案。", True)
    mention = f"答案里说到{start}和{end}，还有下文。"
    if not model.startswith("gpt-oss"):
        assert split_thinking(mention) == (mention, False)
        assert split_thinking(f"{start}想。{end}{mention}") == (mention, True)


@pytest.mark.parametrize("model", CLOSED_ONLY)
def test_thinking_may_be_opened_in_the_prompt(model: str) -> None:
    assert split_thinking(f"先想一想。{PAIRS[model][1]}答案。") == ("答案。", True)


@pytest.mark.parametrize("model", sorted(PAIRS.keys() - {"granite 3.2"}))
def test_thinking_that_is_cut_off_is_no_answer(model: str) -> None:
    assert split_thinking(f"{PAIRS[model][0]}先想一想") == (None, True)


@pytest.mark.parametrize("text", [text for pair in PAIRS.values() for text in pair])
def test_every_marker_is_noticed_at_a_glance(text: str) -> None:
    assert text == "assistantfinal" or split_thinking(f"{text}想", [("<never>", "</never>")]) == split_thinking(
        f"{text}想"
    )


def test_every_marker_of_the_table_names_models_and_is_tried() -> None:
    import re

    for marker in MARKERS:
        assert marker.models
        assert any(re.match(marker.opening, start.strip(), re.IGNORECASE) for start, _ in PAIRS.values()), marker


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("答案。", "答案。"),
        ("", ""),
        ("<think></think>\n答案。", "答案。"),
        ("<think/>答案。", "答案。"),
        ("<think>想</think>", ""),
        ("<think>一</think>\n<think>二</think>答案。", "答案。"),
        ("<think>一</think>[THINK]二[/THINK]答案。", "答案。"),
        ("想\n</think>\n\n</think>答案。", "答案。"),
        ("想</think><think>再想</think>答案。", "答案。"),
        ("</mm:think>答案。", "答案。"),
        ("<ifm|think><ifm|think_fast>想</ifm|think_faster>答案。", "答案。"),
        ("<think>想</thinking>答案。", "答案。"),
        ('<think lang="zh">想</think>答案。', "答案。"),
        ("［ＴＨＩＮＫ］想［／ＴＨＩＮＫ］答案。", "答案。"),
        ("〈think〉想〈/think〉答案。", "答案。"),
        ("<think>一</think><think>二", None),
        ("<think>用<think>标签</think>答案。", "答案。"),
        ("<think>一<think>二</think>三</think>答案。", "答案。"),
        ("<think>a<think>b</think>c<think>d</think>e</think>答案。", "答案。"),
        ("<think>想<think>再想</think>答案。以后<think>和</think>是标签", "答案。以后<think>和</think>是标签"),
        ("<think>想</think>答案里提到</think>标签", "答案里提到</think>标签"),
        ("<think>想想“</think>”是什么</think>答案。", "答案。"),
        ("用 `</think>` 结束。", "用 `</think>` 结束。"),
        ("用“[/THINK]”结束。", "用“[/THINK]”结束。"),
        ("模型用<think>标签思考", "模型用<think>标签思考"),
        ("a < think of b", "a < think of b"),
        ("Analysis of the assistant final report", "Analysis of the assistant final report"),
        ("analysis by the assistant final", "analysis by the assistant final"),
        ("用<|channel|>分开频道", "用<|channel|>分开频道"),
        ("<think>想</think>assistantfinal答案。", "答案。"),
        ("The user asks. Let's answer.assistantfinal答案。", "答案。"),
        ("<|channel|>final<|message|>答案。<|return|>", "答案。"),
        ("<|channel|>analysis<|message|>想<|end|>", None),
        ("analysisWe need to answer. The assistant final message", None),
        ("<think>想</think><answer>\n答案。\n</answer>", "答案。"),
        ("<think>想</think>\n<response>\n答案。\n</response>\n", "答案。"),
        ("<Thought>想</Thought><Output>答案。</Output>", "答案。"),
        ("<answer>是标签</answer>", "<answer>是标签</answer>"),
        ("<|begin_of_thought|>想<|end_of_thought|><|begin_of_solution|>答案。<|end_of_solution|>", "答案。"),
        ("<|START_THINKING|>想<|END_THINKING|><|START_RESPONSE|>答案。<|END_RESPONSE|>", "答案。"),
        ("<|close|>think<|sep|><|open|>response<|sep|>答案。<|close|>response<|sep|><|close|>message<|sep|>", "答案。"),
        ("<|message_model|><|content_text|>答案。<|end_message|><|content_model_end_sampling|>", "答案。"),
        ("[unused16]想[unused17]答案。[unused10]", "答案。"),
        ("答案。<|im_end|>", "答案。"),
        ("<|im_end|>", ""),
        *(
            (f"{token}答案。{token}\n", "答案。")
            for token in ("<eos>", "<bos>", "<pad>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "[/INST]", "</s>")
        ),
        ("答案。<｜end▁of▁sentence｜>", "答案。"),
        ("<｜begin▁of▁sentence｜><think>想</think>答案。</s>", "答案。"),
        ("<s>答案。</s>", "答案。"),
        ("<s>[INST] 问 [/INST] 答案。</s>", "问 [/INST] 答案。"),
        ("<s>旧价</s>新价", "<s>旧价</s>新价"),
        ("新价<s>旧价</s>", "新价<s>旧价</s>"),
        ("用 </s> 结束。", "用 </s> 结束。"),
        ("以`</s>`", "以`</s>`"),
        ("想<|/think|>答案。", "答案。"),
        ("Here is my thought process: short.", "Here is my thought process: short."),
    ],
)
def test_where_the_answer_begins(content: str, answer: str | None) -> None:
    assert split_thinking(content).answer == answer


def test_markers_of_ones_own_are_added_to_the_table() -> None:
    own = [("<cot>", "</cot>"), ("思考开始：", "思考结束。")]
    assert split_thinking("＜COT＞想</cot>答案。", own) == ("答案。", True)
    assert split_thinking("思考开始：想。思考结束。答案。", own) == ("答案。", True)
    assert split_thinking("想。</cot>答案。", own) == ("答案。", True)
    assert split_thinking("<cot>想", own) == (None, True)
    assert split_thinking("<think>想</think>答案。", own) == ("答案。", True)


@pytest.mark.parametrize(
    "answer",
    [
        "<chain_of_thought>想</chain_of_thought>答案。",
        "<analysis>想</analysis>答案。",
        "想一想。</cot>答案。",
        "＜思考＞想＜／思考＞答案。",
        "◁ponder▷想◁/ponder▷答案。",
        "【思考】想【/思考】答案。",
        "<|reasoning_start|>想<|reasoning_end|>答案。",
        "<|im_start|>assistant\n答案。",
        "Thinking Process:\n\n1. 想\n\n答案。",
        "**思考过程：** 想\n\n答案。",
        "## Thinking\n想",
        "Here's my thought process: 想",
        "好的。<think>想</think>答案。",
        "好的。[THINK]想[/THINK]答案。",
        "好的<|/ponder|>答案。",
        "好的。◁think▷想◁/think▷答案。",
    ],
)
def test_what_seems_to_be_thinking_stays_and_is_marked(answer: str) -> None:
    assert split_thinking(answer) == (answer, False)
    assert seems_to_think(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "答案。",
        "",
        "【结论】先洗手。",
        "[1] 冷萃咖啡",
        "<b>答案</b>",
        "思考这个问题，先看笔记。",
        "I think so.",
        "1. 准备材料\n2. <thinking>是什么",
        "[思考](#)一下",
        "用“</cot>”结束",
        "a<b，分析如下：",
    ],
)
def test_what_does_not_seem_to_be_thinking(answer: str) -> None:
    assert not seems_to_think(answer)


@given(st.text())
def test_without_markers_the_answer_is_the_content(content: str) -> None:
    if not any(mark in content for mark in "<[◁＜［〈") and "hin" not in content.lower() and "final" not in content:
        assert split_thinking(content) == (content.strip(), False)


@given(st.text())
def test_any_text_can_be_split(content: str) -> None:
    answer, _ = split_thinking(content)
    assert answer is None or answer in content
    seems_to_think(content)


@given(st.lists(st.tuples(SPACE, OPEN, PROSE, CLOSE, SPACE)), ANSWER, OPEN, ANY_END)
def test_blocks_are_left_out_and_what_the_answer_mentions_stays(
    blocks: list[tuple[str, ...]], answer: str, mention: str, rest: str
) -> None:
    before = "".join(map("".join, blocks))
    assert split_thinking(before + answer).answer == answer.strip()
    assert split_thinking(before + answer + mention + rest).answer == (answer + mention + rest).strip()


@given(PROSE, CLOSE, SPACE, ANSWER)
def test_prose_before_a_closing_marker_is_thinking(thought: str, close: str, space: str, answer: str) -> None:
    assert split_thinking(thought + close + space + answer).answer == answer.strip()


@given(st.lists(st.tuples(SPACE, OPEN, PROSE, CLOSE, SPACE)), st.tuples(SPACE, OPEN, PROSE))
def test_thinking_that_never_ends_is_no_answer(blocks: list[tuple[str, ...]], unclosed: tuple[str, ...]) -> None:
    assert split_thinking("".join(map("".join, [*blocks, unclosed]))) == (None, True)


def test_a_long_answer_takes_no_long_time() -> None:
    for text in (" " * 300_000, "<" * 100_000, "<think" * 50_000, "< / " * 100_000, "<|channel|>" * 30_000):
        split_thinking(text + "答")
        seems_to_think(text + "答")
