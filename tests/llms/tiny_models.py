"""Random models of a few hundred kB, made by the Python of the engine that serves them.

tiny_models.py qwen2|gguf|mmproj OUT. Their tokens are bytes, so that any text can be read; what they answer is noise.
"""

from __future__ import annotations

import sys
from typing import Any

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT_LENGTH, WIDTH, INNER, LAYERS, HEADS = 8192, 64, 128, 2, 2
N_TOKENS = len(SPECIAL) + 256


def byte_tokens() -> list[str]:
    """GPT-2's characters for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def qwen2(out: str) -> None:
    """A folder as the hub has them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *byte_tokens()])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(out)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=N_TOKENS,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT_LENGTH,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(out)


def gguf(out: str) -> None:
    """The same as one file for llama.cpp."""
    import gguf as format
    import numpy as np

    writer = format.GGUFWriter(out, "qwen2")
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*SPECIAL, *byte_tokens()])
    writer.add_token_types([3] * len(SPECIAL) + [1] * 256)
    writer.add_token_merges(["e r"])
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values: Any = np.ones(shape) if "norm" in name else rng.standard_normal(shape) * 0.05
        writer.add_tensor(f"{name}", values.astype(np.float32))

    add("token_embd.weight", N_TOKENS, WIDTH)
    add("output_norm.weight", WIDTH)
    add("output.weight", N_TOKENS, WIDTH)
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{norm}.weight", WIDTH)
        for part, width in (("q", WIDTH), ("k", WIDTH // HEADS), ("v", WIDTH // HEADS)):
            add(f"blk.{layer}.attn_{part}.weight", width, WIDTH)
            add(f"blk.{layer}.attn_{part}.bias", width)
        add(f"blk.{layer}.attn_output.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate.weight", INNER, WIDTH)
        add(f"blk.{layer}.ffn_up.weight", INNER, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def mmproj(out: str) -> None:
    """A projector by which llama.cpp shows images to the model of `gguf`: a CLIP of two layers, as LLaVA has it."""
    import gguf as format
    import numpy as np

    width, inner, layers, patch, side = 32, 64, 2, 14, 56
    writer = format.GGUFWriter(out, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    for name, value in {
        "image_size": side,
        "patch_size": patch,
        "embedding_length": width,
        "feed_forward_length": inner,
        "projection_dim": WIDTH,
        "attention.head_count": HEADS,
        "block_count": layers,
    }.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])
    rng = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (rng.standard_normal(shape) * 0.1).astype(np.float32))

    def add_linear(name: str, out: int, *given: int) -> None:
        add(f"{name}.weight", out, *given)
        add(f"{name}.bias", out)

    add("v.class_embd", width)
    add("v.patch_embd.weight", width, 3, patch, patch)
    add("v.position_embd.weight", (side // patch) ** 2 + 1, width)
    add_linear("v.pre_ln", width)
    for layer in range(layers):
        for norm in ("ln1", "ln2"):
            add_linear(f"v.blk.{layer}.{norm}", width)
        for part in ("q", "k", "v", "out"):
            add_linear(f"v.blk.{layer}.attn_{part}", width, width)
        add_linear(f"v.blk.{layer}.ffn_up", inner, width)
        add_linear(f"v.blk.{layer}.ffn_down", width, inner)
    add_linear("mm.0", WIDTH, width)
    add_linear("mm.2", WIDTH, WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    {"qwen2": qwen2, "gguf": gguf, "mmproj": mmproj}[sys.argv[1]](sys.argv[2])
