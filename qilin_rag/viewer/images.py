"""Answer requests for images of notes: by number, from small copies that were encoded anew."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from qilin_rag.core.text import whole_number
from qilin_rag.reports.thumbnails import MEDIA_TYPE, NoteThumbnails


def image_of(thumbnails: NoteThumbnails | None, request: Request) -> Response:
    """Return the image that the fields `note` and `n` of an address name; they are numbers, never a path.

    Args:
        thumbnails: The images of the notes; None has none.
        request: The request.

    Raises:
        HTTPException: if there is no such image, or it can't be read: 404.
    """
    note_idx, place = (whole_number(request.query_params.get(name, "")) for name in ("note", "n"))
    images = thumbnails.of_note(note_idx) if thumbnails and note_idx is not None else ()
    if place is None or place >= len(images):
        raise HTTPException(404, "there is no such image")
    if why := images[place].why:
        raise HTTPException(404, f"the image is not shown: {why}")
    return Response(images[place].content, media_type=MEDIA_TYPE)
