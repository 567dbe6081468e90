"""Split the last message of a prompt into texts and images, in the order in which a model reads them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from qilin_rag.core.types import Image, RenderedPrompt

Part = dict[str, Any]


def messages_in_parts(prompt: RenderedPrompt, image_part: Callable[[Image], Part]) -> list[Any]:
    """Return the messages of a prompt as they are sent: the last one in parts if images go with it.

    The texts of the parts make the whole message when they are joined; no part is an empty text.

    Args:
        prompt: The messages, the images, and their places.
        image_part: Returns the part of an image.
    """
    *before, last = prompt.messages
    if not prompt.images:
        return [*before, last]
    text = last["content"]
    places = prompt.image_places or [len(text)] * len(prompt.images)
    parts: list[Part] = []
    n_sent = 0
    for place, group in groupby(zip(places, prompt.images, strict=True), key=lambda pair: pair[0]):
        parts += _text_part(text[n_sent:place])
        parts += [image_part(image) for _, image in group]
        n_sent = place
    return [*before, {**last, "content": [*parts, *_text_part(text[n_sent:])]}]


def image_by_url(image: Image) -> Part:
    """Return the part that sends an image."""
    return {"type": "image_url", "image_url": {"url": image.data_url}}


def image_by_hash(image: Image) -> Part:
    """Return the part that names an image by its hash."""
    return {"type": "image", "sha256": image.sha256}


def _text_part(text: str) -> list[Part]:
    return [{"type": "text", "text": text}] if text else []
