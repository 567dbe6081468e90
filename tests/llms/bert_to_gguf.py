"""Writes a tiny BERT folder as one file for llama.cpp: bert_to_gguf.py FOLDER OUT, by a Python with gguf and numpy.

Names of tensors and keys are those of llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
EMBEDDINGS = {
    "word_embeddings": "token_embd",
    "token_type_embeddings": "token_types",
    "position_embeddings": "position_embd",
    "LayerNorm": "token_embd_norm",
}
PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """The 32-bit tensors of a safetensors file."""
    import numpy as np

    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            yield name, np.frombuffer(content[first:last], "<f4").reshape(entry["shape"])


def name_in_gguf(name: str) -> str | None:
    """The name of a tensor there; None for the pooler of a model without a head."""
    stem, kind = name.removeprefix("bert.").rsplit(".", 1)
    match stem.split(".", 3):
        case ["embeddings", part]:
            return f"{EMBEDDINGS[part]}.{kind}"
        case ["encoder", "layer", number, part]:
            return f"blk.{number}.{PARTS[part]}.{kind}"
        case ["pooler", "dense"] if name.startswith("bert."):
            return f"cls.{kind}"
        case ["classifier"]:
            return f"cls.output.{kind}"
    return None


def main(folder: Path, out: str) -> None:
    import gguf

    config = json.loads((folder / "config.json").read_text())
    is_reranker = config["architectures"] == ["BertForSequenceClassification"]
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    writer = gguf.GGUFWriter(out, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if is_reranker else gguf.PoolingType.MEAN)
    if is_reranker:
        writer.add_classifier_output_labels(["LABEL_0"])
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(config["type_vocab_size"])
    # A word begins with a mark here, and not the rest of one.
    marked = [word if word in SPECIAL else word[2:] if word.startswith("##") else f"▁{word}" for word in words]
    writer.add_token_list(marked)
    writer.add_token_types([3 if word in SPECIAL else 1 for word in words])
    for add, word in (
        (writer.add_bos_token_id, "[CLS]"),
        (writer.add_eos_token_id, "[SEP]"),
        (writer.add_sep_token_id, "[SEP]"),
        (writer.add_unk_token_id, "[UNK]"),
        (writer.add_pad_token_id, "[PAD]"),
        (writer.add_mask_token_id, "[MASK]"),
    ):
        add(words.index(word))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)  # after a query and after a text
    writer.add_add_sep_token(False)
    for name, values in tensors(folder / "model.safetensors"):
        if new := name_in_gguf(name):
            writer.add_tensor(new, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
