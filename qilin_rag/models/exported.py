"""Run a text encoder's transformer by ONNX Runtime or OpenVINO on the CPU: exported once, in fp32 or int8, and kept.

The backends of sentence-transformers 6.2 need optimum, whose releases need an older transformers than it does itself.
So torch exports the transformer here. The tokenizer, the pooling and all that follows stay sentence-transformers' own.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from qilin_rag.core.cache import cache_dir, in_use, make_room
from qilin_rag.core.checksums import file_record, is_as_recorded
from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.files import atomic_folder, write_text
from qilin_rag.core.hashing import fingerprint
from qilin_rag.models.pretrained import quiet_loading
from qilin_rag.models.sentence_encoder import as_text

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)
Backend = Literal["onnx", "openvino"]
ExportedPrecision = Literal["fp32", "int8"]
Run = Callable[[dict[str, npt.NDArray[np.int64]]], npt.NDArray[np.float32]]
"""Computes token vectors (n_texts, n_tokens, dimension) of inputs by name, each (n_texts, n_tokens)."""

PACKAGES: dict[Backend, tuple[str, ...]] = {"onnx": ("onnxruntime",), "openvino": ("openvino", "nncf")}
"""The packages that compute, whose versions change the vectors."""
_EXPORTERS = ("torch", "transformers", "onnx", "onnxscript")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OPSET = 23  # the first with an operator for attention, without which its scores are written to memory many times
_BATCH_TOKENS = 512  # a batch of a few thousand took twice as long in ONNX Runtime, whose attention scores fill caches
_LARGE_BYTES = 1_500_000_000  # one ONNX file holds 2 GB at most
_MANIFEST, _ONNX, _OPENVINO = "export.json", "model.onnx", "model.xml"
_TALKERS = ("torch.onnx", "onnxscript", "onnx_ir", "nncf")


def require_backend(backend: Backend) -> None:
    """Raise a UsageError if a package of a backend is not installed; it names the extra."""
    modules = ("torch", "sentence_transformers", "onnx", "onnxscript", *PACKAGES[backend])
    require(backend, *modules, what=f"backend {backend}")


def run_exported(
    encoder: SentenceTransformer,
    backend: Backend,
    precision: ExportedPrecision,
    sha256: str,
    name: str,
    texts: Sequence[str],
) -> None:
    """Replace the transformer of an encoder on the CPU by an exported one, which is made if the cache has none.

    In int8, weights have a scale per output channel. Activations get theirs as they come (ONNX Runtime, per tensor), or
    from `texts` (OpenVINO, by nncf).

    Args:
        encoder: The encoder, changed in place.
        backend: What computes.
        precision: The precision of matrix products with weights.
        sha256: The hash of the model's content.
        name: The name of the model, for errors.
        texts: Typical texts with their prefix.

    Raises:
        UsageError: if the model can't be exported.
    """
    first = encoder[0]
    if type(first).__name__ != "Transformer" or "image" in encoder.modalities:
        raise UsageError(
            f"backend {backend}: model {name!r} is not one transformer that reads text alone; set backend to torch"
        )
    features = encoder.preprocess([as_text(encoder, text) for text in ("1", "1 2 3")])
    names = [each for each in _INPUTS if each in features]
    made_of: dict[str, Any] = {
        "model": sha256,
        "inputs": names,
        "opset": _OPSET,
        "packages": {package: version(package) for package in _EXPORTERS},
    }
    described = f"model {name!r} for {backend}"
    try:
        with _kept(made_of, f"exporting {described}", lambda folder: _export(first.model, features, names, folder)) as (
            plain
        ):
            if precision == "fp32":
                run = _opened(backend, plain / _ONNX)
            else:
                made_of |= {"int8": backend, "runtime": {package: version(package) for package in PACKAGES[backend]}}
                if backend == "openvino":
                    made_of["texts"] = fingerprint({"texts": list(texts), "max_length": encoder.max_seq_length})

                def quantize(folder: Path) -> None:
                    if backend == "onnx":
                        _quantize_onnx(plain / _ONNX, folder / _ONNX)
                    else:
                        _quantize_openvino(plain / _ONNX, folder / _OPENVINO, encoder, names, texts)

                file = _ONNX if backend == "onnx" else _OPENVINO
                with _kept(made_of, f"quantizing {described}", quantize) as quantized:
                    run = _opened(backend, quantized / file)
    except UsageError:
        raise
    except Exception as error:  # torch, onnx, onnxruntime, openvino and nncf raise anything
        logger.debug("%s can't be exported", described, exc_info=True)
        first_line = next(iter(str(error).strip().splitlines()), "")[:160]
        raise UsageError(
            f"{described} can't be exported ({type(error).__name__}: {first_line}); set backend to torch"
        ) from error
    first.model = _exported_module(first.model.config, run, names)


def _exported_module(config: Any, run: Run, names: Sequence[str]) -> Any:
    """Return a torch module with the outputs of the exported transformer."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    class ExportedTransformer(torch.nn.Module):  # type: ignore[misc]
        batch_tokens = _BATCH_TOKENS

        def __init__(self) -> None:
            super().__init__()
            self.config = config
            self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)  # tells the encoder its device

        def forward(
            self, input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None, **_: Any
        ) -> Any:
            given = dict(zip(_INPUTS, (input_ids, attention_mask, token_type_ids), strict=True))
            states = run({name: np.ascontiguousarray(given[name].numpy(), np.int64) for name in names})
            return BaseModelOutput(last_hidden_state=torch.from_numpy(states))

    return ExportedTransformer().eval()


def _export(model: Any, features: Any, names: Sequence[str], folder: Path) -> None:
    """Write the transformer as an ONNX file that takes texts of any number and length."""
    import torch

    class Traced(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            given = zip(_INPUTS, (input_ids, attention_mask, token_type_ids), strict=True)
            return self.model(**{name: value for name, value in given if value is not None}).last_hidden_state

    example = tuple(features[name].cpu() for name in names)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.onnx.export(
            Traced().eval(),
            example,
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            input_names=list(names),
            output_names=["last_hidden_state"],
            dynamic_shapes=(any_size,) * len(names),
        )
    assert program is not None
    program.save(str(folder / _ONNX))


def _quantize_onnx(plain: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    n_bytes = sum(each.stat().st_size for each in plain.parent.iterdir())
    quantize_dynamic(
        plain,
        path,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        use_external_data_format=n_bytes > _LARGE_BYTES,
    )


def _quantize_openvino(
    plain: Path, path: Path, encoder: SentenceTransformer, names: Sequence[str], texts: Sequence[str]
) -> None:
    os.environ.setdefault("NNCF_CI", "1")  # else nncf reports its use over the network
    import nncf
    import openvino

    inputs = [
        {name: each[name].numpy() for name in names}
        for each in (encoder.preprocess([as_text(encoder, text)]) for text in texts)
    ]
    model = openvino.Core().read_model(plain)
    quantized = nncf.quantize(
        model, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=max(1, len(inputs))
    )
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _opened(backend: Backend, path: Path) -> Run:
    """Return what computes one batch on one thread, so that vectors do not depend on the number of cores."""
    if backend == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run_onnx(inputs: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
            states: npt.NDArray[np.float32] = session.run(None, inputs)[0]
            return states

        return run_onnx
    import openvino
    import torch

    n_threads = torch.get_num_threads()
    settings = {"INFERENCE_NUM_THREADS": n_threads, "NUM_STREAMS": n_threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    of_thread = threading.local()

    def run_openvino(inputs: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        states: npt.NDArray[np.float32] = np.array(of_thread.request.infer(inputs)[0], np.float32)
        return states

    return run_openvino


@contextmanager
def _kept(made_of: dict[str, Any], work: str, write: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the folder of an export in the cache. One process makes a missing or damaged one, others wait.

    If the cache can't be written to, the export is only not kept.
    """
    folder = cache_dir() / "exports" / fingerprint(made_of)[:24]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not _is_whole(folder):
                logger.info("%s, once", work)
                shutil.rmtree(folder, ignore_errors=True)
                with atomic_folder(folder) as temporary:
                    _quietly(write, temporary)
                    files = {path.name: file_record(path) for path in sorted(temporary.iterdir())}
                    write_text(temporary / _MANIFEST, f"{json.dumps({'made_of': made_of, 'files': files}, indent=2)}\n")
            holder = _Holder()
            in_use(folder, by=holder)
            make_room()
    except OSError as error:
        logger.warning("the export can't be kept in %s (%s); it will be made again next time", folder, error)
    else:
        yield folder
        del holder
        return
    with tempfile.TemporaryDirectory(prefix="qilin_rag-", ignore_cleanup_errors=True) as temporary_name:
        logger.info("%s", work)
        _quietly(write, Path(temporary_name))
        yield Path(temporary_name)


class _Holder:
    """Holds an entry of the cache while it is read."""


def _is_whole(folder: Path) -> bool:
    """Return whether an export exists as it was written; a damaged one is logged."""
    if not folder.exists():
        return False
    try:
        files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        if files and all(is_as_recorded(folder / Path(name).name, record) for name, record in files.items()):
            return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.debug("%s: %s", folder, error)
    logger.warning("the export %s is damaged; making it again", folder)
    return False


def _quietly(write: Callable[[Path], None], folder: Path) -> None:
    """Call `write` without the messages of the libraries, which are for programmers."""
    talkers = [logging.getLogger(name) for name in _TALKERS]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    root, muted = logging.getLogger(), _Muted()
    root.addFilter(muted)
    try:
        with warnings.catch_warnings(), quiet_loading(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            write(folder)
    finally:
        root.removeFilter(muted)
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)


class _Muted(logging.Filter):
    """Drops what is logged by the root logger itself, as onnxruntime's quantizer does."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False
