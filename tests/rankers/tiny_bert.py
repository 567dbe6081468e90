"""A tiny random BERT that reads characters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def write_tiny_bert(
    folder: Path, texts: Iterable[str], width: int = 32, dropout: float = 0.0, positions: int = 64
) -> Path:
    """A transformers folder with two layers, whose vocabulary is the characters of these texts."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    characters = sorted(set("".join(texts).lower()) - set(" \n\t"))
    inner = [f"##{character}" for character in characters if character.isascii()]  # within a word
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *inner]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
