"""Tiny random models that make sparse vectors, whose tokens are the characters of a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.retrievers.tiny_models import HIDDEN, SPECIAL, routed, transformer, words, write_kind, write_tokenizer


def write_masked_lm(folder: Path, seed: int = 0, **more: Any) -> Path:
    """A BertForMaskedLM as transformers writes it, most of whose logits are negative."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words()),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=64,
        initializer_range=0.5,
        pad_token_id=SPECIAL.index("<pad>"),
        **more,
    )
    model = BertForMaskedLM(config)
    with torch.no_grad():
        model.cls.predictions.bias.fill_(-2.5)
    model.save_pretrained(folder)
    write_tokenizer(folder, model_max_length=64)
    return folder


def splade(folder: Path) -> list[Any]:
    """The modules of a masked language model and SPLADE's pooling."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    return [Transformer(str(folder), transformer_task="fill-mask"), SpladePooling("max")]


def save_sparse(folder: Path, modules: Sequence[Any], **more: Any) -> Path:
    """As sentence-transformers writes it; `more` are prompts, max_active_dims, similarity_fn_name."""
    from sentence_transformers import SparseEncoder

    SparseEncoder(modules=list(modules), device="cpu", **more).save_pretrained(str(folder), create_model_card=False)
    return folder


def write_csr(folder: Path, **more: Any) -> Path:
    """A sparse autoencoder over a mean of token vectors."""
    import torch
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    plain = write_kind(folder / "plain", "bert")
    torch.manual_seed(1)
    coder = SparseAutoEncoder(HIDDEN, 64, k=8)
    return save_sparse(folder / "csr", [*transformer(plain), coder], **more)


def write_inference_free(folder: Path, weights: Sequence[float] | None = None, **more: Any) -> Path:
    """Questions by a weight for each token, notes by SPLADE."""
    import torch
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
    from transformers import AutoTokenizer

    plain = write_masked_lm(folder / "plain")
    generator = torch.Generator().manual_seed(2)
    values = torch.rand(len(words()), generator=generator) if weights is None else torch.tensor(weights)
    static = SparseStaticEmbedding(AutoTokenizer.from_pretrained(plain), values)
    return save_sparse(folder / "idf", [routed([static], splade(plain))], **more)


def write_lexical(folder: Path, seed: int = 0) -> Path:
    """An XLM-R in the form of BGE-M3: the files of a dense model, and a sparse head beside them."""
    import torch
    from torch import nn

    write_kind(folder, "xlm-roberta", seed, max_position_embeddings=64)
    torch.manual_seed(seed)
    head = nn.Linear(HIDDEN, 1)
    nn.init.normal_(head.weight)
    torch.save(head.state_dict(), folder / "sparse_linear.pt")
    dense = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(dense))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": false}')
    return folder
