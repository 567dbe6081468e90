"""A BERT of two layers with random weights, whose tokens are the characters of a text.

From the beginning each token attends to its like, wherever that stands: keys are queries. Large encoders learn so when
they are trained on text, and out of nothing a cross-encoder would need thousands of steps to find it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_bert(
    folder: Path, texts: Iterable[str], seed: int = 0, dropout: float = 0.1, width: int = 64, max_positions: int = 128
) -> Path:
    """As the hub has encoders: without a head."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    words = [*SPECIAL, *sorted({character for text in texts for character in text if not character.isspace()})]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=max_positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.125,  # .02 is for wide ones
    )
    model = BertModel(config, add_pooling_layer=False)
    model.embeddings.position_embeddings.weight.data *= 0.2
    for layer in model.encoder.layer:
        layer.attention.self.key.load_state_dict(layer.attention.self.query.state_dict())
    model.save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
