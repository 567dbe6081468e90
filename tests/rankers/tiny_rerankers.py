"""Tiny random rerankers: a cross-encoder, and a language model that answers yes or no."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.rankers.tiny_bert import write_tiny_bert


def write_cross_encoder(folder: Path, texts: Iterable[str], n_labels: int = 1, positions: int = 64) -> Path:
    """A BERT with a head that gives `n_labels` scores, wide enough for scores to differ."""
    import torch
    import transformers

    write_tiny_bert(folder, texts, positions=positions)
    config = transformers.BertConfig.from_pretrained(folder, num_labels=n_labels, initializer_range=0.5)
    torch.manual_seed(1)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def write_generative(folder: Path) -> Path:
    """A Qwen2 whose tokens are bytes, yes, no, Yes, 1 and 0, with an ordinary chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "yes", "no", "Yes"]
    plain = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*special, *plain])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(special) + len(plain),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder
