"""Make the input of a vision-language model: query, note and pictures in the model's own chat template, as tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.covers import Covers
from qilin_rag.data.exposures import Ints
from qilin_rag.data.requests import Requests
from qilin_rag.models.pretrained import quiet_loading, why_not_loaded
from qilin_rag.models.sentence_encoder import MAX_CHARS_PER_TOKEN

Part = list[int] | str
"""A part of a prompt: tokens, or the name of what is inserted there."""

QUERY, NOTE, IMAGE = "query", "note", "image"
_MARKS = {"\ue000": QUERY, "\ue001": NOTE}  # in no language, so that they are found again in the output of the template
_LEAST_TEXT = 16
_MIN_PIXELS = 56 * 56
_KEPT_TEXTS = 100_000
_KEPT_BYTES = 2**28  # pictures: recent covers are those of all candidates of a request


class Reader(NamedTuple):
    """Tokenizer and image processor of a model."""

    name: str
    tokenizer: Any
    images: Any
    image_token_id: int

    @property
    def side_px(self) -> int:
        """Return the side of the square of pixels that is one token."""
        side: int = self.images.patch_size * self.images.merge_size
        return side


def read_with(folder: Path, name: str, max_pixels: int) -> Reader:
    """Return the reader of a model in a folder; its images are shrunk to `max_pixels`.

    AutoProcessor would need a processor of videos, and that torchvision. Images always use PIL, so that they are the
    same with and without torchvision.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    least = min(_MIN_PIXELS, max_pixels)
    # Both spellings, because a model's own files may use either, and that one would win.
    limits = {
        "size": {"shortest_edge": least, "longest_edge": max_pixels},
        "min_pixels": least,
        "max_pixels": max_pixels,
    }
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(folder)
            images = AutoImageProcessor.from_pretrained(folder, backend="pil", **limits)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            return Reader(name, tokenizer, images, config.image_token_id)
    except (OSError, ValueError, AttributeError) as error:
        reason = why_not_loaded(error, [])
        raise UsageError(f"model {name!r} can't be read as a vision-language model: {reason}") from error


class Prompts:
    """Makes the model's input of candidates.

    The text is cut to the tokens that `max_length` leaves beside pictures and template; pictures are not cut. The query
    gets half of them, or what the note leaves.
    """

    def __init__(
        self,
        reader: Reader,
        requests: Requests,
        catalogue: Catalogue,
        max_length: int,
        max_pixels: int,
        history_covers: int,
        with_images: bool,
    ) -> None:
        self._reader, self._requests, self._notes = reader, requests, catalogue.notes
        self._max_length = max_length
        self._n_history = history_covers if with_images and not requests.is_search.all() else 0
        n_tokens = max_pixels // reader.side_px**2
        self._covers = Covers(catalogue, partial(_fits, reader.images, n_tokens)) if with_images else None
        self._frame = lru_cache(self._make_frame)
        self._query_tokens = lru_cache(_KEPT_TEXTS)(self._tokens)
        self._note_tokens = lru_cache(_KEPT_TEXTS)(self._tokens_of_note)
        bytes_per_cover = 4 * 3 * 2 * max_pixels  # floats, channels, and each picture counts as two frames
        self._pixels = lru_cache(max(1, _KEPT_BYTES // bytes_per_cover))(self._read_pixels)
        self._unknown = set(self._notes.missing(requests.recent)) if self._n_history else set()
        for is_search in np.unique(requests.is_search).tolist():
            n_covers = 0 if is_search else self._n_history
            frame = self._frame(is_search, n_covers, with_images)
            least = _size(frame) + frame.count(IMAGE) * n_tokens + _LEAST_TEXT
            if least > max_length:
                raise UsageError(
                    f"max_length {max_length} holds no {frame.count(IMAGE)} pictures of {n_tokens} tokens beside the "
                    f"prompt and some text, {least} in all; a smaller max_pixels, or fewer history_covers"
                )

    def tell(self) -> None:
        """Log one line about the covers read so far."""
        if self._covers:
            self._covers.tell()

    def text_length(self, row: int) -> int:
        """Return the tokens of a candidate's text before it is cut."""
        query = self._requests.queries[self._requests.request[row]]
        return len(self._query_tokens(query)) + len(self._note_tokens(int(self._requests.note_idx[row])))

    def batch(self, rows: Sequence[int] | Ints) -> dict[str, Any]:
        """Return the model's inputs for these candidates: tokens padded on the right, and all their pictures."""
        import torch

        made = [self._prompt(int(row)) for row in rows]
        length = max(len(tokens) for tokens, _ in made)
        ids = torch.full((len(made), length), self._reader.tokenizer.pad_token_id)
        mask = torch.zeros((len(made), length), dtype=torch.long)
        for row, (tokens, _) in enumerate(made):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if pictures := [picture for _, pictures in made for picture in pictures]:
            inputs |= {
                "pixel_values": torch.cat([torch.from_numpy(pixels) for pixels, _ in pictures]),
                "image_grid_thw": torch.from_numpy(np.stack([grid for _, grid in pictures])),
                "mm_token_type_ids": ((ids == self._reader.image_token_id) & (mask == 1)).int(),
            }
        return inputs

    def _prompt(self, row: int) -> tuple[list[int], list[Any]]:
        """Return the tokens of a candidate's prompt, and its pictures in their order."""
        requests, request = self._requests, self._requests.request[row]
        is_search, note = bool(requests.is_search[request]), int(requests.note_idx[row])
        cover = self._pixels(note) if self._covers else None
        history = [] if is_search else self._history(request)
        pictures = [*history, cover] if cover else history
        frame = self._frame(is_search, len(history), cover is not None)
        sizes = [int(grid.prod()) // self._reader.images.merge_size**2 for _, grid in pictures]
        left = self._max_length - _size(frame) - sum(sizes)
        query, text = self._query_tokens(requests.queries[request]), self._note_tokens(note)
        n_query = min(len(query), max(left // 2, left - len(text)))
        n_of_image = iter(sizes)
        tokens: list[int] = []
        for part in frame:
            if part == QUERY:
                tokens += query[:n_query]
            elif part == NOTE:
                tokens += text[: left - n_query]
            elif part == IMAGE:
                tokens += [self._reader.image_token_id] * next(n_of_image)
            elif not isinstance(part, str):
                tokens += part
        return tokens, pictures

    def _history(self, request: int) -> list[Any]:
        """Return the pictures of the newest clicked notes that have one."""
        start, end = self._requests.recent_offsets[request : request + 2]
        notes = [note for note in self._requests.recent[start:end].tolist() if note not in self._unknown]
        found: list[Any] = []
        for note in notes:
            if len(found) == self._n_history:
                break
            if picture := self._pixels(note):
                found.append(picture)
        return found

    def _read_pixels(self, note_idx: int) -> tuple[Any, Any] | None:
        """Return the patches of a cover, (n_patches, n_values), and their number in (time, height, width)."""
        assert self._covers is not None
        image = self._covers.read(note_idx)
        if image is None:
            return None
        found = self._reader.images(images=[image], return_tensors="np")
        return found["pixel_values"].astype(np.float32), found["image_grid_thw"][0]

    def _tokens_of_note(self, note_idx: int) -> list[int]:
        (note,) = self._notes.get([note_idx])
        return self._tokens(f"{note.title}\n{note.content}")

    def _tokens(self, text: str) -> list[int]:
        """Tokenize a text from outside: what looks like a special token is text as well."""
        text = text[: self._max_length * MAX_CHARS_PER_TOKEN]
        tokens: list[int] = self._reader.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tokens[: self._max_length]

    def _make_frame(self, is_search: bool, n_history: int, has_cover: bool) -> list[Part]:
        """Return the prompt without the texts of the candidate and its pictures."""
        tokenizer = self._reader.tokenizer
        query, note = _MARKS
        image = {"type": "image"}
        content: list[dict[str, str]] = [
            {"type": "text", "text": f"{'搜索词' if is_search else '最近点击的笔记'}：{query}"}
        ]
        content += [image] * n_history
        content += [{"type": "text", "text": "\n笔记："}]
        content += [image] * has_cover
        content += [{"type": "text", "text": f"{note}\n用户会点击这篇笔记吗？"}]
        if not tokenizer.chat_template:
            raise UsageError(
                f"model {self._reader.name!r} has no chat template; name one that was tuned on instructions"
            )
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        image_token = tokenizer.convert_ids_to_tokens(self._reader.image_token_id)
        names = {**_MARKS, image_token: IMAGE}
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
        if [names[part] for part in parts if part in names] != [QUERY, *[IMAGE] * (n_history + has_cover), NOTE]:
            raise UsageError(f"the chat template of model {self._reader.name!r} leaves out what it is given")
        return [
            names[part] if part in names else tokenizer.encode(part, add_special_tokens=False) for part in parts if part
        ]


def _fits(images: Any, n_tokens: int, width: int, height: int) -> bool:
    """Return whether a picture takes at most its tokens: a long and narrow one can't be shrunk far enough."""
    try:
        n_patches: int = images.get_number_of_image_patches(height, width)
    except ValueError:  # more than 200 times as long as wide
        return False
    return n_patches <= n_tokens * int(images.merge_size) ** 2


def _size(frame: list[Part]) -> int:
    """Return the tokens of the frame itself."""
    return sum(len(part) for part in frame if not isinstance(part, str))
