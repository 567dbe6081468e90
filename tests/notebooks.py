"""Execute the notebooks of the documentation. `python -m tests.notebooks` writes their outputs again."""

from __future__ import annotations

import re
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
FORMAT: Any = nbformat  # it has no types
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
_VARYING = [
    (re.compile(r"0x[0-9a-f]+"), "0x"),
    (re.compile(r"\d+(?:\.\d+)? ?(?:ms|s|min|h)\b"), "TIME"),
    (re.compile(r"\S*/tmp\S*"), "PATH"),
]


def read(path: Path) -> Any:
    """Return a notebook as it is stored."""
    return FORMAT.read(path, as_version=4)


def execute(path: Path, folder: Path, claims: str = "") -> Any:
    """Return a notebook with the outputs of an execution in an empty folder, laid out as a clone of the repository.

    `claims` is code that is run last, in the notebook's kernel: it asserts what the text says of the outputs.
    """
    notebook = read(path)
    notebook.cells.append(FORMAT.v4.new_code_cell(textwrap.dedent(claims)))
    at = folder / "docs" / "notebooks"
    at.mkdir(parents=True)
    (folder / "runs").symlink_to(ROOT / "runs")
    resources = {"metadata": {"path": str(at)}}
    NotebookClient(notebook, timeout=300, record_timing=False, coalesce_streams=True, resources=resources).execute()
    notebook.cells.pop()
    notebook.metadata.language_info = {"name": "python"}
    for output in outputs(notebook):
        if "text/html" in output.get("data", {}):
            output.data.pop("text/plain", None)  # whoever shows a notebook shows HTML, and the reprs are long
    return notebook


def outputs(notebook: Any) -> list[Any]:
    """Return all outputs but standard error, where libraries say what they do for the first time."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in found if output.get("name") != "stderr"]


def texts(notebook: Any) -> list[str]:
    """Return what each output shows as text, without times, paths and addresses."""
    return [_without_varying(_text(output)) for output in outputs(notebook)]


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    return str(output.data.get("text/html") or output.data["text/plain"])


def _without_varying(text: str) -> str:
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return text


def main() -> None:
    """Execute all notebooks and store their outputs."""
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        for cell in notebook.cells:
            if "outputs" in cell:
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        FORMAT.write(notebook, path)


if __name__ == "__main__":
    main()
