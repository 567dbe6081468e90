"""Tiny models that read images and texts, random or made by hand, and notes with pictures for them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import write_jsonl
from tests.retrievers.tiny_models import HIDDEN, SPECIAL, save, words

SIDE, PATCH = 16, 8
IMAGE = "<mask>"  # the placeholder of an image
COLOURS = {
    "红": (255, 0, 0),
    "绿": (0, 255, 0),
    "蓝": (0, 0, 255),
    "黄": (255, 255, 0),
    "紫": (255, 0, 255),
    "青": (0, 255, 255),
    "白": (255, 255, 255),
    "黑": (0, 0, 0),
}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}:{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}" + IMAGE + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}。{% endfor %}"
)


def _size() -> dict[str, Any]:
    return {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN}


def _image_processor() -> Any:
    from transformers import CLIPImageProcessorPil

    size = {"height": SIDE, "width": SIDE}
    shortest, half = {"shortest_edge": SIDE}, [0.5] * 3
    return CLIPImageProcessorPil(size=shortest, crop_size=size, image_mean=half, image_std=half)


def _tokenizer(tokens: list[str], marks: str = "<s> $A <|endoftext|>", **more: Any) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=marks, special_tokens=[(word, numbers[word]) for word in SPECIAL if word in marks]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<pad>",
        unk_token="<unk>",
        **more,
    )


def _clip_config(tokens: list[str], n_layers: int = 2) -> Any:
    from transformers import CLIPConfig

    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": SPECIAL.index("<|endoftext|>")}
    size = _size() | {"num_hidden_layers": n_layers, "initializer_range": 0.5}
    return CLIPConfig(
        text_config={**size, **ids, "vocab_size": len(tokens), "max_position_embeddings": 32},
        vision_config={**size, "image_size": SIDE, "patch_size": PATCH},
        projection_dim=HIDDEN,
    )


def write_clip(folder: Path) -> Path:
    """A random CLIP, which reads images and texts, each alone."""
    import torch
    from transformers import CLIPModel, CLIPProcessor

    torch.manual_seed(0)
    CLIPModel(_clip_config(words())).save_pretrained(folder)
    CLIPProcessor(_image_processor(), _tokenizer(words())).save_pretrained(folder)
    return folder


def write_colour_clip(folder: Path) -> Path:
    """A CLIP that knows colours, without training: an image is its mean colour, a text the colour that it names.

    One layer of attention that looks at all tokens alike carries the colour of patches (or words) to the token that is
    read at the end. Each colour c is (r, g, b, -r, -g, -b), so that no layer norm changes its direction.
    """
    import torch
    from transformers import CLIPModel, CLIPProcessor

    tokens = [*SPECIAL, *COLOURS]
    model = CLIPModel(_clip_config(tokens, n_layers=1))
    of_channels = torch.eye(3, HIDDEN) - torch.eye(3, HIDDEN).roll(3, dims=1)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            is_norm = "norm" in name or "layrnorm" in name
            weights.fill_(1.0 if is_norm and name.endswith("weight") else 0.0)
            if name.endswith(("v_proj.weight", "out_proj.weight", "_projection.weight")):
                weights.copy_(torch.eye(*weights.shape))
        patches = model.vision_model.embeddings.patch_embedding.weight
        patches.copy_((of_channels.T[:, :, None, None] / PATCH**2).expand_as(patches))
        for number, colour in enumerate(COLOURS.values(), len(SPECIAL)):
            channels = torch.tensor(colour) / 127.5 - 1
            model.text_model.embeddings.token_embedding.weight[number] = channels @ of_channels
    model.save_pretrained(folder)
    CLIPProcessor(_image_processor(), _tokenizer(tokens)).save_pretrained(folder)
    return folder


def write_llava(folder: Path, pooling: str = "lasttoken") -> Path:
    """A random vision-language model as an embedder of sentence-transformers: images and text in one message."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import LlavaConfig, LlavaModel, LlavaProcessor

    torch.manual_seed(0)
    tokens = words()
    text = {"model_type": "qwen2", "vocab_size": len(tokens), "num_key_value_heads": 1, "pad_token_id": 1}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_size(), "image_size": SIDE, "patch_size": PATCH},
        text_config={**_size(), **text, "max_position_embeddings": 256, "initializer_range": 0.5},
        image_token_index=tokens.index(IMAGE),
        vision_feature_layer=-1,
    )
    plain = folder / "plain"
    LlavaModel(config).save_pretrained(plain)
    tokenizer = _tokenizer(tokens, marks="$A", extra_special_tokens=[IMAGE])
    LlavaProcessor(
        _image_processor(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(plain)
    modules = [Transformer(str(plain)), Pooling(HIDDEN, pooling), Normalize()]
    return save(folder / "embedder", modules)


def draw(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> str:
    """Write a picture of random blocks; return the name of its file."""
    from PIL import Image

    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(path)
    return f"{path.parent.name}/{path.name}"


def write_pictured(folder: Path) -> Path:
    """Ten notes: one has two images, one the image of another, and three none that can be read, for three reasons."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [draw(folder / "image" / f"{n}.png", n) for n in range(7)]
    (folder / "image" / "damaged.jpg").write_bytes(b"\xff\xd8 no picture")
    paths = [[name] for name in names] + [["image/damaged.jpg"], ["image/gone.png"], []]
    paths[1] = [names[1], names[2]]
    paths[6] = [names[0]]
    texts = ["冷萃咖啡", "手冲水温", "多肉怎么养", "", "研磨粉", "通风春天", "换盆晾根", "今是想", "遮阴断水", "藏小时"]
    rows = [
        {"note_idx": 90 - 7 * n, "note_title": "", "note_content": text, "image_path": of_note}
        for n, (text, of_note) in enumerate(zip(texts, paths, strict=True))
    ]
    write_jsonl(folder / "notes.jsonl", rows)
    query = {"search_idx": 1, "query": "冷萃咖啡怎么做", "answers": ["冷"], "ref_note_idx_list": [90]}
    write_jsonl(folder / "dqa.jsonl", [query])
    return folder


def write_cards(folder: Path, n_of_colour: int = 5) -> Path:
    """Cards, `n_of_colour` of each colour, whose text says nothing, and a question for each colour."""
    from PIL import Image

    (folder / "image").mkdir(parents=True)
    order = np.random.default_rng(0).permutation(n_of_colour * len(COLOURS)).tolist()
    cards = list(zip(order, itertools.cycle(COLOURS), strict=False))
    rows = []
    for note_idx, colour in sorted(cards):
        shade = tuple(int(0.9 * channel + note_idx % 10) for channel in COLOURS[colour])
        Image.new("RGB", (30, 20), shade).save(folder / "image" / f"{note_idx}.png")
        path = f"image/{note_idx}.png"
        rows.append({"note_idx": note_idx, "note_title": "", "note_content": f"卡片{note_idx}", "image_path": [path]})
    write_jsonl(folder / "notes.jsonl", rows)
    questions = [
        {
            "search_idx": n,
            "query": colour,
            "answers": [colour],
            "ref_note_idx_list": [i for i, c in cards if c == colour],
        }
        for n, colour in enumerate(COLOURS)
    ]
    write_jsonl(folder / "dqa.jsonl", questions)
    return folder
