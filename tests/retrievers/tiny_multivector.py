"""Tiny random late-interaction models, in the forms in which people save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.retrievers.tiny_models import HIDDEN, write_kind

WIDTH = 8
QUERY_LENGTH = 12
NOTE_LENGTH = 40
PUNCTUATION = ["，", "。", ":"]


def write_multi_vector(folder: Path, kind: str = "bert", seed: int = 0, **more: Any) -> Path:
    """A model as sentence-transformers saves it: markers, query expansion, a skip list, a projection of 8 dimensions.

    Args:
        folder: The folder to write.
        kind: The model type of transformers.
        seed: The seed of all weights.
        **more: `marks` around a text, `skiplist`, `normalize`, or settings of the Transformer module and the encoder.
    """
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    base = write_kind(folder.with_name(f"{folder.name}-base"), kind, seed=seed, marks=more.pop("marks", "<s> $A </s>"))
    of_model = {name: more.pop(name) for name in ("prompts", "similarity_fn_name") if name in more}
    is_normal, skiplist = more.pop("normalize", True), more.pop("skiplist", PUNCTUATION)
    of_tokens = {"query_expansion": {"strategy": "fixed", "length": QUERY_LENGTH}, "document_length": NOTE_LENGTH}
    torch.manual_seed(seed)
    modules = [
        Transformer(str(base), **of_tokens | more),
        Dense(HIDDEN, WIDTH, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask(skiplist_words=skiplist),
        *([Normalize(module_input_name="token_embeddings")] if is_normal else []),
    ]
    marked = {"prompts": {"query": "Q:", "document": "D:"}} | of_model
    encoder = MultiVectorEncoder(modules=modules, device="cpu", **marked)
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def write_stanford(folder: Path, seed: int = 0) -> Path:
    """The same as Stanford's ColBERT saves it: the projection beside the weights of BERT, markers among the tokens."""
    import torch
    from safetensors.torch import load_file, save_file

    write_kind(folder, "bert", seed=seed)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
    weights = {f"bert.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    torch.manual_seed(seed)
    weights["linear.weight"] = torch.randn(WIDTH, HIDDEN)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    said: dict[str, Any] = {
        "query_maxlen": QUERY_LENGTH,
        "doc_maxlen": NOTE_LENGTH,
        "dim": WIDTH,
        "mask_punctuation": True,
    }
    said |= {"query_token_id": "Q", "doc_token_id": "D", "attend_to_mask_tokens": False}
    (folder / "artifact.metadata").write_text(json.dumps(said))
    return folder


def write_pylate(folder: Path, seed: int = 0) -> Path:
    """The same as PyLate saved it until its third version."""
    write_multi_vector(folder, seed=seed)
    modules = json.loads((folder / "modules.json").read_text())[:2]
    modules[0]["type"], modules[1]["type"] = "sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    path = folder / "config_sentence_transformers.json"
    said = json.loads(path.read_text()) | {"model_type": "ColBERT", "prompts": {}, "similarity_fn_name": "MaxSim"}
    said |= {"query_prefix": "Q:", "document_prefix": "D:", "query_length": QUERY_LENGTH}
    said |= {"document_length": NOTE_LENGTH, "attend_to_expansion_tokens": True, "skiplist_words": PUNCTUATION}
    path.write_text(json.dumps(said))
    path = folder / "sentence_bert_config.json"
    kept = {name: value for name, value in json.loads(path.read_text()).items() if "query" not in name}
    path.write_text(json.dumps(kept))
    return folder
