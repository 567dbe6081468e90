"""Tokens of images against the examples of providers, and against counts by hand."""

from __future__ import annotations

import io

import pytest

from qilin_rag.core.types import Image
from qilin_rag.llms.image_tokens import RULES, Rule, count_tokens, most_tokens, rule_of, tokens_of


@pytest.mark.parametrize(
    ("rule", "width", "height", "expected"),
    [
        ("openai-tiles", 1024, 1024, 765),  # OpenAI's own examples: 4 tiles
        ("openai-tiles", 2048, 4096, 1105),  # to 1024 x 2048, to 768 x 1536: 6 tiles
        ("openai-tiles", 512, 512, 85 + 170),
        ("openai-tiles", 513, 512, 85 + 2 * 170),
        ("openai-tiles", 8192, 64, 85 + 4 * 170),  # to 2048 x 16
        ("gemini", 384, 384, 258),
        ("gemini", 960, 540, 6 * 258),  # Google's own example: tiles of 360
        ("gemini", 1024, 1024, 4 * 258),  # tiles of 682
        ("gemini", 4000, 3000, 6 * 4 * 258),  # tiles of 768, not of 2000
        ("gemini", 1000, 100, 4 * 258),  # tiles of 256, not of 66
        ("anthropic", 1092, 1092, 39 * 39),
        ("anthropic", 200, 200, 8 * 8),
        ("qwen2-vl", 280, 560, 10 * 20 + 2),
        ("qwen2-vl", 1024, 1024, 37 * 37 + 2),  # 36.57 is nearer to 37
        ("qwen2-vl", 28, 28, 2 * 2 + 2),  # grown to 56 x 56
        ("qwen2-vl", 7168, 7168, 128 * 128 + 2),  # shrunk to 3584 x 3584
        ("qwen3-vl", 1024, 512, 32 * 16 + 2),
        ("qwen3-vl", 32, 32, 8 * 8 + 2),
        (None, 1024, 1024, 37 * 37 + 2),  # the most of all
    ],
)
def test_counts(rule: Rule | None, width: int, height: int, expected: int) -> None:
    assert count_tokens(rule, width, height) == expected


@pytest.mark.parametrize("size", [(1024, 768), (300, 1000), (57, 2000), (14, 700), (5000, 4000), (28, 28)])
def test_qwen_counts_as_transformers_does(size: tuple[int, int]) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    width, height = size
    for rule, side, least, most in (("qwen2-vl", 28, 56**2, 16384 * 28**2), ("qwen3-vl", 32, 65536, 16777216)):
        rows, columns = module.smart_resize(height, width, side, least, most)
        assert count_tokens(rule, width, height) == rows * columns // side**2 + 2  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
def test_no_image_takes_more_than_the_most(rule: Rule) -> None:
    assert most_tokens(rule, 1024) >= max(
        count_tokens(rule, width, height) for width in range(32, 1025, 124) for height in range(32, 1025, 124)
    )


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("Qwen/Qwen2.5-VL-72B-Instruct", "qwen2-vl"),
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2-vl"),
        ("qwen3-vl-plus", "qwen3-vl"),
        ("gpt-4o-2024-08-06", "openai-tiles"),
        ("gpt-4o-mini", None),
        ("anthropic:claude-sonnet-4-5", "anthropic"),
        ("google_genai:gemini-2.5-flash", "gemini"),
        ("gemini-3-pro", None),
        ("Qwen/Qwen2.5-7B-Instruct", None),
    ],
)
def test_the_rule_of_a_model(model: str, rule: Rule | None) -> None:
    assert rule_of(model) == rule


def test_the_size_is_that_of_what_is_sent() -> None:
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("RGB", (280, 560)).save(jpeg := io.BytesIO(), "JPEG")
    assert tokens_of("qwen2-vl", Image("a", jpeg.getvalue())) == 202
