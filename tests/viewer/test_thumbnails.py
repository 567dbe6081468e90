"""Images of notes in the view: asked for by number, encoded anew, and those of the data alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from starlette.testclient import TestClient

from qilin_rag.core import extras
from qilin_rag.reports.contents import collect
from qilin_rag.reports.html import images_folder, write_report
from qilin_rag.reports.thumbnails import LONGEST_SIDE, MOST_IMAGE_BYTES, ImageMode
from qilin_rag.viewer.site import site
from tests.fake_server import MODEL, FakeServer
from tests.reports.pictured import CANARY, NAMES, pictured_run
from tests.reports.visits import PHONE, WIDE, sync_api
from tests.viewer.serving import client_of, started

Image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'qilin-rag[images]'")
SHOWN = {(0, 0), (0, 1), (0, 2), (4, 1)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictured_run(tmp_path_factory.mktemp("images")).path.parent


@pytest.fixture
def client(runs: Path) -> TestClient:
    return client_of(site([runs]))


def test_images_of_notes_are_asked_for_by_number(client: TestClient) -> None:
    index, notes = opened(client)
    assert {int(note): len(of.get("images", [])) for note, of in notes.items()} == dict(enumerate(map(len, NAMES)))
    for note, names in enumerate(NAMES):
        for place in range(len(names)):
            answer = image(client, index, note, place)
            if (note, place) not in SHOWN:
                assert answer.status_code == 404
                assert answer.headers["content-type"] == "application/json"
                continue
            assert answer.headers["content-type"] == "image/webp"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert len(answer.content) <= MOST_IMAGE_BYTES
            assert CANARY.encode() not in answer.content
            with Image.open(BytesIO(answer.content)) as copy:
                assert (copy.format, max(copy.size) <= LONGEST_SIDE) == ("WEBP", True)


def test_other_numbers_and_paths_name_no_image(client: TestClient) -> None:
    index, _ = opened(client)
    assert image(client, index, 0, 0).status_code == 200
    for note, place in [
        *((0, at) for at in (3, -1, 10**30, "", "00x", "../0", "card.png")),
        *((at, 0) for at in (5, -1, 2**63, 10**30, "", "0/0", "../secret.png", "²", "pictured")),
    ]:
        assert image(client, index, note, place).status_code == 404, (note, place)
    assert image(client, {**index, "board": "another"}, 0, 0).status_code == 409


def test_the_policy_allows_own_images_only(client: TestClient) -> None:
    policy = client.get("/board").headers["content-security-policy"]
    rules = {name: values for name, *values in map(str.split, policy.split(";"))}
    assert rules["img-src"] == ["'self'"]
    assert rules["default-src"] == ["'none'"]


def test_no_image_is_shown_if_nobody_wants_any_or_none_can_be_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = client_of(site([runs], images=False))
    index, notes = opened(without)
    assert not any("images" in note for note in notes.values())
    assert image(without, index, 0, 0).status_code == 404
    monkeypatch.setattr(extras, "missing_modules", lambda *modules: [name for name in modules if name == "PIL"])
    index, notes = opened(client_of(site([runs])))
    assert not any("images" in note for note in notes.values())
    assert index["tables"][0]["why_no_images"] == ""
    monkeypatch.setattr("qilin_rag.viewer.board.images_sent", lambda manifests: 1)
    index, _ = opened(client_of(site([runs])))
    assert "PIL" in index["tables"][0]["why_no_images"]


def opened(client: TestClient) -> tuple[dict[str, Any], dict[str, Any]]:
    """The index of all runs, and the notes of the first question."""
    index = client.get("/api/board").json()
    [table] = index["tables"]
    fields = {"board": index["board"], "t": "0", "id": table["ids"][0], "run": table["runs"][0]["run"]}
    return index, client.get("/api/question", params=fields).json()["notes"]


def image(client: TestClient, index: dict[str, Any], note: object, place: object) -> Any:
    """The answer to the request for an image."""
    fields = {"board": index["board"], "t": "0", "note": str(note), "n": str(place)}
    return client.get("/api/thumbnail", params=fields)


def test_the_page_of_a_run_shows_the_images_of_prompts_that_had_some(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [run] = [path.name for path in runs.iterdir()]
    client = client_of(site([runs]))
    asked = {"run": run, "id": "0"}
    assert client.get("/api/sample_images", params=asked).json() == {"why": "", "notes": []}
    assert client.get("/api/sample_thumbnail", params={"run": run, "note": "0", "n": "0"}).status_code == 404
    monkeypatch.setattr("qilin_rag.viewer.run_page.images_sent", lambda manifests: 2)
    monkeypatch.setattr("qilin_rag.reports.thumbnails.images_sent", lambda manifests: 2)
    told = client.get("/api/sample_images", params=asked).json()
    assert {row["note"]: row["n"] for row in told["notes"]} == {0: 2, 2: 2, 3: 2, 4: 2}
    for note, n, status in (("0", "0", 200), ("0", "2", 404), ("2", "0", 404), ("9", "0", 404), ("0", "../0", 404)):
        answer = client.get("/api/sample_thumbnail", params={"run": run, "note": note, "n": n})
        assert answer.status_code == status, (note, n)
    assert client.get("/api/sample_images", params={"run": run, "id": "none"}).json()["notes"] == []
    assert b"img-src data:;" in client.get("/api/download?format=html").content
    off = client_of(site([runs], images=False))
    assert b"img-src" not in off.get("/api/download?format=html").content.partition(b"</head>")[0]
    assert off.get("/api/sample_images", params=asked).json()["notes"] == []


@pytest.mark.browser
def test_images_really_show_in_the_view_and_in_reports(runs: Path, chromium: Any, tmp_path: Path) -> None:
    paths = list(runs.iterdir())
    modes: tuple[ImageMode, ...] = ("embed", "link")
    for mode in modes:
        out = tmp_path / f"{mode} #1.html"
        write_report(collect(paths, mode, images_folder(out).name), out)
        with visited(chromium, out.as_uri(), PHONE, dark=mode == "embed") as page:
            check_images(page)
    with started("--runs-dir", runs) as address, visited(chromium, address.replace("/?", "/board?"), WIDE) as page:
        check_images(page)


@pytest.mark.browser
def test_what_went_with_a_prompt_is_on_the_page_of_its_run_and_in_its_report(
    server: FakeServer, chromium: Any, tmp_path: Path
) -> None:
    directory = pictured_run(tmp_path, 1, f"llm.model={MODEL}", llm="openai", base_url=server.url, note_images=2)
    sent = "3 images in the prompt, images left out: "
    with started("--runs-dir", directory.path.parent) as address:
        page = chromium.new_page(viewport=PHONE)
        page.goto(address.replace("/?", f"/run?run={directory.path.name}&"))
        page.locator("#samples button.link").click()
        sync_api.expect(page.locator("#sample .facts")).to_contain_text(sent)
        sync_api.expect(page.locator("#sample .thumb, #sample .absent")).to_have_count(8)
        page.locator("#sample .thumb img").first.scroll_into_view_if_needed()
        sync_api.expect(page.locator("#sample .thumb img").first).to_have_js_property("complete", True)
        assert page.locator("#sample .thumb img").first.evaluate("image => image.naturalWidth") > 0
        page.close()
    contents = collect([directory.path])
    write_report(contents, tmp_path / "report.html")
    with visited(chromium, (tmp_path / "report.html").as_uri(), WIDE) as page:
        sync_api.expect(page.locator(".hits > .hint")).to_contain_text(sent)
        sync_api.expect(page.locator(".hits .thumb")).to_have_count(3)


@contextmanager
def visited(chromium: Any, address: str, viewport: dict[str, int], dark: bool = False) -> Iterator[Any]:
    """A page with its first question opened; what it says or asks of others fails the test."""
    page = chromium.new_page(viewport=viewport, color_scheme="dark" if dark else "light")
    heard: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("console", lambda message: heard.append(f"{message.text} {message.location['url']}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    page.click("#questions tbody tr:first-child a")
    page.wait_for_selector(".thumb")
    yield page
    unseen = [text for text in heard if "404" in text and "/api/thumbnail" in text]  # images that can't be read
    assert heard == unseen
    assert {url.split(":")[0] for url in asked} <= {address.split(":")[0], "data"}
    assert page.evaluate("window.hacked") is None
    page.close()


def check_images(page: Any) -> None:
    """Those that can be read are seen, with a text for those who see none; the others are told of."""
    hits = page.locator(".hits .thumbs")
    sync_api.expect(hits).to_have_count(4)
    page.evaluate("for (const image of document.querySelectorAll('.hits img')) image.loading = 'eager'")
    sync_api.expect(page.locator(".hits .thumb")).to_have_count(len(SHOWN))
    sync_api.expect(page.locator(".hits .absent")).to_have_count(sum(map(len, NAMES)) - len(SHOWN))
    for shown in page.locator(".hits .thumb img").all():
        sync_api.expect(shown).to_have_js_property("complete", True)
        assert shown.evaluate("image => image.naturalWidth") > 0
        assert "of note" in shown.get_attribute("alt")
    thumb = page.locator(".hits .thumb").first
    small = thumb.bounding_box()["height"]
    thumb.focus()
    page.keyboard.press("Enter")
    assert thumb.get_attribute("aria-pressed") == "true"
    assert thumb.bounding_box()["height"] > small
    page.keyboard.press("Enter")
    assert thumb.bounding_box()["height"] == small
    assert page.evaluate("document.querySelector('dialog[open]').scrollWidth <= innerWidth")
