"""Take the pictures of the pages again, in light and dark: the leaderboard, a question in the report, the view, labels.

Needs `pip install 'qilin-rag[test-browser,view]' pillow`, `make chromium` and the font DejaVu Sans Mono.
Usage: python docs/images/take.py
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

HERE = Path(__file__).parent
LEADERBOARD = "leaderboard --runs-dir runs/examples"
ROWS = 16  # of the leaderboard's output: answers and retrieval, without tokens, seconds and notes
COLUMNS = 104
QUESTION = "冷萃咖啡在家怎么做"
LABELLED = "sample-bm25,sample-oracle"
WIDTH, HEIGHT, SCALE = 1026, 644, 1.4  # of the window; pictures are about 1,400 pixels wide, and their letters large
LIST, PHONE = 1320, 390  # widths of the windows with the list of runs
ANSI = [(0, 0, 0), (205, 49, 49), (13, 138, 80), (176, 122, 0), (36, 114, 200), (188, 63, 188), (17, 140, 170)]
THEMES: dict[Literal["light", "dark"], TerminalTheme] = {
    "light": TerminalTheme((246, 248, 250), (31, 35, 40), [*ANSI, (110, 118, 129)]),
    "dark": TerminalTheme((20, 23, 27), (228, 231, 235), [*ANSI, (160, 170, 183)]),
}
TERMINAL = """<body style="margin: 0; background: {background}">
<pre style="margin: 0; padding: 14px 18px; color: {foreground}; font: 15.7px/1.35 'DejaVu Sans Mono'">{code}</pre>"""


def main() -> None:
    """Read the recorded runs in a temporary folder, and take the pictures."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        shutil.copytree(HERE.parents[1] / "runs" / "examples", folder / "runs" / "examples")
        printed = _qilin_rag(LEADERBOARD, folder)
        _qilin_rag("report --runs-dir runs/examples", folder)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in THEMES:
            _take_leaderboard(browser, scheme, printed)
            _take_report(browser, scheme, folder / "report.html")
        _half_done(folder)
        with _view(folder) as address:
            for scheme in THEMES:
                _take_view(browser, scheme, address, f"view-{scheme}", LIST)
            _take_view(browser, "light", address, "view-phone", PHONE)
        with _view(folder, "--label", LABELLED) as address:
            for scheme in THEMES:
                _take_labels(browser, scheme, address)
        browser.close()


def _qilin_rag(arguments: str, folder: Path) -> str:
    """Run one command as in a terminal of `COLUMNS`, and return what it prints."""
    environment = os.environ | {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "qilin_rag", *arguments.split()]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


@contextmanager
def _view(folder: Path, *arguments: str) -> Iterator[str]:
    """Start the view of the runs in a folder; its address."""
    command = [sys.executable, "-m", "qilin_rag", "view", "--port", "0", "--runs-dir", "runs/examples", "--quiet"]
    process = subprocess.Popen([*command, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip() if process.stdout else ""
    finally:
        process.terminate()
        process.wait()


def _half_done(folder: Path) -> None:
    """Add a run that was interrupted after 20 questions."""
    _qilin_rag("run --retriever random --limit 60 --runs-dir runs/examples --quiet", folder)
    [run] = (folder / "runs" / "examples").glob("*-extractive-*")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "state": "incomplete"}))
    lines = (run / "samples.jsonl").read_text().splitlines(keepends=True)
    (run / "samples.jsonl").write_text("".join(lines[:20]))
    for name in ("scores.jsonl", "summary.json"):
        (run / name).unlink()


def _take_view(browser: Browser, scheme: Literal["light", "dark"], address: str, name: str, width: int) -> None:
    """Take the list of runs."""
    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, device_scale_factor=SCALE, color_scheme=scheme)
    page.goto(address)
    page.get_by_text("interrupted").first.wait_for()
    _write(page.screenshot(), name)
    page.close()


def _take_labels(browser: Browser, scheme: Literal["light", "dark"], address: str) -> None:
    """Take a question of the label page, with an answer chosen."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, color_scheme=scheme)
    page.goto(address)
    page.fill("#name", "Li")
    page.press("#name", "Enter")
    page.locator("#item").wait_for()
    page.keyboard.press("b")
    _write(page.screenshot(), f"label-{scheme}")
    page.close()


def _take_leaderboard(browser: Browser, scheme: Literal["light", "dark"], printed: str) -> None:
    """Take the first rows of the leaderboard, below its command."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ qilin-rag {LEADERBOARD}\n", style="bold"))
    for line in printed.splitlines()[:ROWS]:
        console.print(Text.from_ansi(line))
    page = browser.new_page(viewport={"width": 1000, "height": HEIGHT}, device_scale_factor=SCALE)
    page.set_content(console.export_html(theme=THEMES[scheme], code_format=TERMINAL, inline_styles=True))
    _write(page.locator("pre").screenshot(), f"leaderboard-{scheme}")
    page.close()


def _take_report(browser: Browser, scheme: Literal["light", "dark"], report: Path) -> None:
    """Take one question: the answer beside the reference, what they share marked."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, color_scheme=scheme)
    page.goto(report.as_uri())
    page.get_by_role("link", name=QUESTION).click()
    page.get_by_text("Notes found").wait_for()
    _write(page.locator("dialog[open]").screenshot(), f"report-{scheme}")
    page.close()


def _write(png: bytes, name: str) -> None:
    """Write a picture with 128 colours, which is enough for text and lines."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
