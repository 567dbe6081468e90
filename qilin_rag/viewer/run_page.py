"""The page of one run: state, settings, prompt, cost, figures, questions as they come, logs and files."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from qilin_rag.config.resources import resource_names
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.plain_files import open_plain
from qilin_rag.pipeline.run_directory import MANIFEST, SAMPLES, SCORES, SUMMARY, Manifest, RunDirectory
from qilin_rag.pipeline.run_notes import open_data
from qilin_rag.pipeline.scoring import is_misnamed
from qilin_rag.prompts.answer import load_prompt
from qilin_rag.reports.thumbnails import NoteThumbnails, images_sent, open_thumbnails
from qilin_rag.reports.took import first_asked, latency_of, read_calls
from qilin_rag.scorers.summary import doubts, remarks
from qilin_rag.viewer.app import data, page
from qilin_rag.viewer.folders import Folders
from qilin_rag.viewer.images import image_of
from qilin_rag.viewer.kept import Kept
from qilin_rag.viewer.lines import LineFinder, find_parts
from qilin_rag.viewer.samples import Indices, in_full
from qilin_rag.viewer.shell import markup, shell
from qilin_rag.viewer.watch import RunWatcher

DOWNLOADS = (MANIFEST, SUMMARY, SCORES, SAMPLES, "run.trec")
_LOG_BYTES = 256 << 10
_PIECE_BYTES = 1 << 20
_MOST_FILES, _MOST_ENTRIES = 200, 10_000
_MOST_CHARS = 200_000
_MOST_CALLS_BYTES = 256 << 20


class RunPages:
    """Data for the pages of runs.

    Args:
        folders: The runs.
        watcher: Their state.
        images: Whether the images of notes are shown.
    """

    def __init__(self, folders: Folders, watcher: RunWatcher, images: bool = True) -> None:
        self._folders, self._watcher, self._images = folders, watcher, images
        self._thumbnails: Kept[tuple[NoteThumbnails | None, str]] = Kept(4)
        self._indices, self._finder = Indices(), LineFinder()

    def run(self, request: Request) -> dict[str, Any]:
        """Return what is known of a run apart from its questions."""
        path = self._folders.run(request)
        row = self._watcher.rows().get(f"run/{request.query_params['run']}")
        files = _files_in(path)
        known: dict[str, Any] = {
            "row": row and row.model_dump(),
            "files": files,
            "logs": [file["name"] for file in files if file["name"].endswith(".log")],
            "downloads": [file["name"] for file in files if file["name"] in DOWNLOADS],
        }
        if row is None or row.state == "unreadable":
            return known
        directory = RunDirectory(path)
        manifest = directory.read_manifest()
        is_done = row.state == "complete" and SUMMARY in known["downloads"]
        return known | _facts_of(manifest) | (_results_of(directory, manifest) if is_done else {})

    def samples(self, request: Request) -> dict[str, Any]:
        """Return a page of questions in the order in which they were answered."""
        first = request.query_params.get("from")
        if first is not None and not (first.isascii() and first.isdecimal() and len(first) < 16):
            raise HTTPException(400, "from must be a number from 0")
        return self._indices.of(self._folders.run(request)).page(None if first is None else int(first))

    def sample(self, request: Request) -> dict[str, Any]:
        """Return one question in full."""
        path = self._folders.run(request)
        sample = self._indices.of(path).last(request.query_params.get("id", ""))
        if sample is None:
            raise HTTPException(404, "there is no answer to this question yet")
        return in_full(path, sample, find_parts(self._finder, path, sample))

    def sample_images(self, request: Request) -> dict[str, Any]:
        """Return the notes in the prompt of one question with the number of their images, if the run sent images."""
        path = self._folders.run(request)
        thumbnails, why = self._thumbnails_of(path)
        sample = self._indices.of(path).last(request.query_params.get("id", "")) if thumbnails else None
        if thumbnails is None or sample is None:
            return {"why": why, "notes": []}
        counts = thumbnails.counts(notes := sample.known_prompt_notes or [])
        return {"why": "", "notes": [{"note": note, "n": counts[note]} for note in notes if counts.get(note)]}

    def thumbnail(self, request: Request) -> Response:
        """Return a small copy of an image of a note."""
        thumbnails, _ = self._thumbnails_of(self._folders.run(request))
        return image_of(thumbnails, request)

    def _thumbnails_of(self, path: Path) -> tuple[NoteThumbnails | None, str]:
        """Return the images of the notes of a run that sent images, or why there are none."""
        manifest = RunDirectory(path).read_manifest()
        if not self._images or not images_sent([manifest]):
            return None, ""

        def opened() -> tuple[NoteThumbnails | None, str]:
            dataset, why_no_notes = open_data([manifest])
            thumbnails, why = open_thumbnails(dataset, [manifest], is_asked=False)
            return thumbnails, why_no_notes or why

        return self._thumbnails.get(path, manifest.fingerprint, opened)

    def log(self, request: Request) -> dict[str, Any]:
        """Return the end of a log."""
        path = self._folders.run(request)
        name = request.query_params.get("name", "")
        if name not in {file["name"] for file in _files_in(path) if file["name"].endswith(".log")}:
            raise HTTPException(404, "there is no such log")
        with open_plain(path / name) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            file.seek(max(0, n_bytes - _LOG_BYTES))
            text = file.read(_LOG_BYTES).decode("utf-8", "replace")
        return {"text": text, "n_left_out": max(0, n_bytes - _LOG_BYTES)}

    def opened(self, request: Request) -> BufferedReader:
        """Open a file to download."""
        path = self._folders.run(request)
        name = request.query_params.get("name", "")
        if name not in DOWNLOADS:
            raise HTTPException(404, f"there is no such file; there are {', '.join(DOWNLOADS)}")
        try:
            return open_plain(path / name)
        except FileNotFoundError:
            raise HTTPException(404, f"the run has no {name} yet") from None


def routes(folders: Folders, watcher: RunWatcher, images: bool = True) -> list[BaseRoute]:
    """Return the routes of the page of a run.

    Args:
        folders: The runs.
        watcher: Their state.
        images: Whether the images of notes are shown.
    """
    pages = RunPages(folders, watcher, images)

    async def download(request: Request) -> Response:
        file = await run_in_threadpool(pages.opened, request)
        n_bytes = os.fstat(file.fileno()).st_size
        return StreamingResponse(
            _pieces(file, n_bytes),
            media_type="application/octet-stream",
            headers={
                "content-disposition": f'attachment; filename="{request.query_params["name"]}"',
                "content-length": str(n_bytes),
            },
        )

    return [
        page("/run", lambda request: shell("qilin-rag: Run", "run", markup("run.html"), "/run")),
        data("/api/run", pages.run),
        data("/api/samples", pages.samples),
        data("/api/sample", pages.sample),
        data("/api/sample_images", pages.sample_images),
        data("/api/sample_thumbnail", pages.thumbnail),
        data("/api/log", pages.log),
        Route("/api/file", download),
    ]


def _pieces(file: BufferedReader, n_bytes: int) -> Iterator[bytes]:
    """Yield this many bytes: a file that is being written may have more by now."""
    with file:
        while n_bytes > 0 and (piece := file.read(min(n_bytes, _PIECE_BYTES))):
            n_bytes -= len(piece)
            yield piece


def _files_in(path: Path) -> list[dict[str, Any]]:
    """Return the plain files of a run directory, by name."""
    with os.scandir(path) as entries:
        found = [
            {"name": entry.name, "n_bytes": entry.stat(follow_symlinks=False).st_size}
            for entry in itertools.islice(entries, _MOST_ENTRIES)
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith(".") and entry.name.isprintable()
        ]
    return sorted(found, key=lambda file: str(file["name"]))[:_MOST_FILES]


def _facts_of(manifest: Manifest) -> dict[str, Any]:
    return {
        "settings": _as_yaml(manifest.config),
        "prompt": {"facts": _as_yaml(manifest.prompt), "texts": _templates_of(manifest)},
        "identity": {
            "fingerprint": manifest.fingerprint,
            "git_commit": manifest.git_commit,
            "python": manifest.python,
            "packages": _as_yaml(manifest.packages),
            "server": _as_yaml(manifest.server) if manifest.server else None,
            "data": _as_yaml(dict(manifest.data)),
        },
        "times": manifest.times.model_dump() if manifest.times else None,
        "remarks": [str(remark) for remark in manifest.imported.remarks] if manifest.imported else [],
    }


def _templates_of(manifest: Manifest) -> dict[str, str]:
    """Return the templates of the prompt, if the prompt of its name on this machine is the same one."""
    name = manifest.prompt.get("name")
    if not isinstance(name, str) or name not in resource_names("prompts"):
        return {}
    with suppress(QilinError):
        prompt = load_prompt(name)
        if prompt.sha256 == manifest.prompt.get("sha256"):
            return {part: text for part in prompt.parts if (text := getattr(prompt, part))}
    return {}


def _results_of(directory: RunDirectory, manifest: Manifest) -> dict[str, Any]:
    """Return the figures of a complete run, and what its calls took."""
    try:
        summary = directory.read_summary_of_scores()
    except UsageError as error:
        return {"why_no_figures": str(error)}
    figures = {name: of for name, of in summary.metrics.items() if not is_misnamed(manifest, name, of.signature)}
    is_small = (directory.path / SAMPLES).stat().st_size < _MOST_CALLS_BYTES
    calls = read_calls(directory) if is_small else []
    latency, first = latency_of(calls), first_asked(calls, manifest)
    return {
        "figures": {name: of.model_dump(exclude={"reasons"}) for name, of in figures.items()},
        "figure_remarks": remarks(figures),
        "doubts": doubts(summary),
        "repeats": str(summary.repeats) if summary.repeats else None,
        "latency": latency and latency.model_dump(),
        "first_asked": first and first.model_dump(),
        "calls_s": manifest.generation_s,
    }


def _as_yaml(value: Any) -> str:
    """Return a value as YAML; a very long one as the beginning of JSON, which is written faster."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    if len(text) > _MOST_CHARS:
        return f"{text[:_MOST_CHARS]} …"
    return str(yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=100))
