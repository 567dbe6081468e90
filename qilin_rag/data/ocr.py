"""The OCR engine that reads what images say: RapidOCR with the models of its own package, without the network."""

from __future__ import annotations

import logging
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from qilin_rag.core.checksums import file_digest
from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.text import clean
from qilin_rag.core.types import Image

LONGEST_SIDE = 1600
"""The most pixels of the longer side of an image that is read; what is smaller is not enlarged."""
_PACKAGES = ("rapidocr", "onnxruntime")
_TASKS = ("Det", "Cls", "Rec")


def engine_identity() -> dict[str, Any]:
    """Return all of the engine that changes what it reads: versions and models. The engine is not loaded.

    Raises:
        UsageError: if the engine is not installed, or its package holds no models.
    """
    require("ocr", *_PACKAGES, what="reading the text of images")
    models = {path.name: file_digest(path) for path in _models().values()}
    versions = {package: version(package) for package in _PACKAGES}
    return {"engine": "rapidocr", **versions, "models": models, "longest_side": LONGEST_SIDE}


class OcrEngine:
    """A loaded engine; one thread reads one image at a time."""

    def __init__(self) -> None:
        """Load the models."""
        from rapidocr import RapidOCR

        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        settings: dict[str, Any] = {f"{task}.model_path": str(path) for task, path in _models().items()}
        for threads in ("intra_op_num_threads", "inter_op_num_threads"):
            settings[f"EngineConfig.onnxruntime.{threads}"] = 1
        settings |= {"Det.limit_type": "max", "Det.limit_side_len": LONGEST_SIDE}
        self._read = RapidOCR(params={"Global.log_level": "critical", **settings})

    def read(self, image: Image) -> str:
        """Return the text in an image, a line of text on each line; empty if there is none.

        Raises:
            Exception: of any kind, if the engine can't read an image of this shape.
        """
        import numpy as np
        from PIL import Image as Pillow

        with Pillow.open(BytesIO(image.jpeg), formats=("JPEG",)) as picture:
            pixels = np.asarray(picture.convert("RGB"))[:, :, ::-1]
        lines = (clean(line).strip() for line in self._read(pixels).txts or ())
        return "\n".join(filter(None, lines))


def _models() -> dict[str, Path]:
    """Return the models that come with the engine by task, so that it never has to fetch any."""
    package = find_spec("rapidocr")
    folders = [Path(folder) / "models" for folder in (package and package.submodule_search_locations) or []]
    models = {}
    for task in _TASKS:
        found = sorted(path for folder in folders for path in folder.glob(f"*_{task.lower()}_*.onnx"))
        if len(found) != 1:
            raise UsageError(
                f"rapidocr {version('rapidocr')} comes with {len(found)} models for {task}, not one: "
                "pip install --force-reinstall 'qilin-rag[ocr]'"
            )
        models[task] = found[0]
    return models
