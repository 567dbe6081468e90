"""Qwen2-VL with random weights, as a folder like those of the hub: a tiny one for tests, or of any shape.

python -m tests.rankers.random_vlm OUT writes one that vLLM serves.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.llms.tiny_models import byte_tokens

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
IMAGES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""As the hub's models have it."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
N_TOKENS = 400
TINY_TEXT = {
    "vocab_size": N_TOKENS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}
TINY_VISION = {"depth": 2, "embed_dim": 32, "num_heads": 2, "initializer_range": 0.1}


def write_tiny_vlm(folder: Path, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """Two layers of text, two of vision, some hundred kB."""
    import torch

    torch.manual_seed(seed)
    return write_vlm(folder, TINY_TEXT, TINY_VISION, template)


def write_vlm(
    folder: Path, text: dict[str, Any], vision: dict[str, Any], template: str | None = TEMPLATE, tied: bool = False
) -> Path:
    """A model of this shape, in torch's default type and on its default device; the first tokens alone are used.

    They are bytes, and the words of our prompts.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_TOKENS, initial_alphabet=sorted(byte_tokens()), special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(["搜索词：最近点击的笔记：笔记：用户会点击这篇笔记吗？"] * 9, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=SPECIAL[3:]
    )
    if template:
        fast.chat_template = template
    fast.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    eighth = text["hidden_size"] // text["num_attention_heads"] // 2 // 8  # height and width have 3 of 8 each
    config = Qwen2VLConfig(
        text_config={
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2 * eighth, 3 * eighth, 3 * eighth],
            },
            "pad_token_id": SPECIAL.index("<|endoftext|>"),
            "bos_token_id": SPECIAL.index("<|endoftext|>"),
            "eos_token_id": SPECIAL.index("<|im_end|>"),
            **text,
        },
        vision_config={"hidden_size": text["hidden_size"], **vision},
        image_token_id=SPECIAL.index("<|image_pad|>"),
        video_token_id=SPECIAL.index("<|video_pad|>"),
        vision_start_token_id=SPECIAL.index("<|vision_start|>"),
        vision_end_token_id=SPECIAL.index("<|vision_end|>"),
        tie_word_embeddings=tied,
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


def write_served_vlm(folder: Path) -> Path:
    """A tiny one for vLLM on a CPU, whose kernels need attention heads of 32 numbers."""
    import torch

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    return write_vlm(folder, {**TINY_TEXT, "num_attention_heads": 2, "num_key_value_heads": 1}, TINY_VISION)


if __name__ == "__main__":
    write_served_vlm(Path(sys.argv[1]))
