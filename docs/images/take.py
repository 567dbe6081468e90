"""Take the README's pictures again, in light and dark: the leaderboard in a terminal, and a question in the report.

Needs `pip install 'qilin-rag[test-browser]' pillow`, `make chromium` and the font DejaVu Sans Mono.
Usage: python docs/images/take.py
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
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
WIDTH, HEIGHT, SCALE = 1026, 644, 1.4  # of the window; pictures are about 1,400 pixels wide, and their letters large
ANSI = [(0, 0, 0), (205, 49, 49), (13, 138, 80), (176, 122, 0), (36, 114, 200), (188, 63, 188), (17, 140, 170)]
THEMES: dict[Literal["light", "dark"], TerminalTheme] = {
    "light": TerminalTheme((246, 248, 250), (31, 35, 40), [*ANSI, (110, 118, 129)]),
    "dark": TerminalTheme((20, 23, 27), (228, 231, 235), [*ANSI, (160, 170, 183)]),
}
TERMINAL = """<body style="margin: 0; background: {background}">
<pre style="margin: 0; padding: 14px 18px; color: {foreground}; font: 15.7px/1.35 'DejaVu Sans Mono'">{code}</pre>"""


def main() -> None:
    """Read the recorded runs in a temporary folder, and take the four pictures."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        shutil.copytree(HERE.parents[1] / "runs" / "examples", folder / "runs" / "examples")
        printed = _qilin_rag(LEADERBOARD, folder)
        _qilin_rag("report --runs-dir runs/examples", folder)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in THEMES:
            _take_leaderboard(browser, scheme, printed)
            _take_report(browser, scheme, folder / "report.html")
        browser.close()


def _qilin_rag(arguments: str, folder: Path) -> str:
    """Run one command as in a terminal of `COLUMNS`, and return what it prints."""
    environment = os.environ | {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "qilin_rag", *arguments.split()]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


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
