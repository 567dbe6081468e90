"""Tiny random models of many kinds, whose tokens are the characters of a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
CHARACTERS = (
    "冷萃咖啡怎么做多肉养手冲水温粗研磨粉克毫升藏小时后过滤度比闷蒸秒夏六月起遮阴超断保持通风春天换盆晾根两周再浇"
    "今是想辞职的0123456789:：，。 abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)
HIDDEN = 16


def words() -> list[str]:
    return [*SPECIAL, *dict.fromkeys(CHARACTERS)]


def plain_tokenizer(marks: str = "<s> $A </s>") -> Any:
    """A token a character; `marks` is what stands around a text."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(words())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    special = [(word, vocabulary[word]) for word in SPECIAL if word in marks]
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=marks, pair=marks.replace("$A", "$A </s> $B"), special_tokens=special
        )
    return tokenizer


def write_tokenizer(folder: Path, marks: str = "<s> $A </s>", **more: Any) -> None:
    """For transformers; `more` are its settings, such as `model_max_length`."""
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "cls_token": "<s>"}
    PreTrainedTokenizerFast(
        tokenizer_object=plain_tokenizer(marks), **names | {"sep_token": "</s>", "mask_token": "<mask>"} | more
    ).save_pretrained(folder)


def write_kind(folder: Path, kind: str, seed: int = 0, marks: str = "<s> $A </s>", **more: Any) -> Path:
    """A plain transformers folder of a model type; `more` goes to its configuration."""
    import torch
    from transformers import AutoConfig, AutoModel, T5EncoderModel

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    size = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * HIDDEN}
    if kind == "t5":
        size = {"d_model": HIDDEN, "d_kv": HIDDEN // 2, "d_ff": 2 * HIDDEN, "num_layers": 2, "num_heads": 2}
    if kind == "qwen3":
        size |= {"num_key_value_heads": 1, "head_dim": HIDDEN // 2}
    if kind == "gpt2":
        size = {"n_embd": HIDDEN, "n_layer": 2, "n_head": 2}
    ids = {name: SPECIAL.index(word) for name, word in _IDS.items()}
    given = {"vocab_size": len(words()), "initializer_range": 0.5, "initializer_factor": 5.0}
    config = AutoConfig.for_model(kind, **size | ids | given | more)
    model: Any = T5EncoderModel(config) if kind == "t5" else AutoModel.from_config(config)
    model.save_pretrained(folder)
    write_tokenizer(folder, marks)
    return folder


_IDS = {
    **{"pad_token_id": "<pad>", "bos_token_id": "<s>", "eos_token_id": "</s>"},
    **{"cls_token_id": "<s>", "sep_token_id": "</s>"},
}


def save(folder: Path, modules: list[Any], **more: Any) -> Path:
    """As sentence-transformers writes it; `more` are prompts, truncate_dim, similarity_fn_name."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=modules, device="cpu", **more).save_pretrained(str(folder), create_model_card=False)
    return folder


def transformer(folder: Path, pooling: str = "mean", **more: Any) -> list[Any]:
    """The modules of a plain folder and a pooling."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    read_as_text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    return [
        Transformer(str(folder), modality_config=read_as_text, module_output_name="token_embeddings", **more),
        Pooling(HIDDEN, pooling),
    ]


def static(seed: int = 0) -> Any:
    """A vector a character, and nothing else."""
    import torch
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    generator = torch.Generator().manual_seed(seed)
    return StaticEmbedding(
        plain_tokenizer(""), embedding_weights=torch.randn(len(words()), HIDDEN, generator=generator)
    )


def routed(first: list[Any], second: list[Any], **more: Any) -> Any:
    """Queries by the first modules, documents by the second."""
    from sentence_transformers.base.modules import Router

    return Router.for_query_document(query_modules=first, document_modules=second, **more)


Write = Callable[[Path], Path]
