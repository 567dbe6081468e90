"""Export runs to the datastore of Every Eval Ever (schema 0.3.0, arXiv:2606.14516): two files for each run.

`data/<collection>/<developer>/<model>/<uuid>.json` has the figures, `<uuid>_samples.jsonl` beside it a record for each
question and figure. Names of files are UUIDs made of the evaluation's id, so that a run always has the same.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import replace_text
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.exports.base import Exported, ExportFormat
from qilin_rag.reports.exports.eee_aggregate import aggregate
from qilin_rag.reports.exports.eee_evaluation import SCHEMA, Evaluation, is_addressable, path_parts
from qilin_rag.reports.exports.eee_samples import sample_records
from qilin_rag.reports.exports.json_lines import as_json

_NO_DEVELOPER = "runs have a model without a developer: the validator warns; --set model_id=DEVELOPER/NAME names both"


class EveryEvalEver(ExportFormat):
    """The datastore layout of Every Eval Ever 0.3.0."""

    writes_folder: ClassVar[bool] = True
    takes_many: ClassVar[bool] = True

    collection: str | None = None
    """Name of the benchmark, which is the first folder. Default: the data's name."""
    model_id: str | None = None
    """The model as DEVELOPER/NAME, as on Hugging Face. Default: the name that the run asked its server for."""
    organization: str = "unknown"
    """The organization that provides the results."""
    relationship: Literal["first_party", "third_party", "collaborative", "other"] = "other"
    """The relationship of the evaluator to the model's developer."""
    deployment_type: Literal["self_deployed", "externally_managed", "unknown"] | None = None
    """Control of the deployment. Default: self_deployed if the run started the server, else unknown."""
    model_availability: Literal["open_weights", "closed_weights", "unknown"] = "unknown"
    """Whether the model's weights are available."""

    def write(self, runs: Sequence[RunDirectory], out: Path) -> Exported:
        """Write both files of each run below `out/data`."""
        if self.model_id and len(runs) > 1:
            raise UsageError(f"model_id is of one run, and {len(runs)} are exported; export them one by one")
        counts = Counter({"runs": 0, "figures": 0, "records": 0})
        remarks: Counter[str] = Counter()
        written: dict[Path, Path] = {}
        for run in runs:
            evaluation = Evaluation.of(run, collection=self.collection, model_id=self.model_id)
            folder = out.joinpath("data", *path_parts(evaluation))
            name = uuid.UUID(bytes=hashlib.sha256(evaluation.id.encode()).digest()[:16], version=4)
            if other := written.get(folder / f"{name}.json"):
                raise UsageError(f"{other} and {run.path} are the same run; name it once")
            written[folder / f"{name}.json"] = run.path
            if not is_addressable(evaluation.model_id):
                remarks[_NO_DEVELOPER] += 1
            self._write_run(evaluation, folder, str(name), counts, remarks)
        return Exported(dict(counts), {remark: n for remark, n in sorted(remarks.items()) if n})

    def _write_run(
        self, evaluation: Evaluation, folder: Path, name: str, counts: Counter[str], remarks: Counter[str]
    ) -> None:
        samples = folder / f"{name}_samples.jsonl"
        digest = hashlib.sha256()
        n_records = 0

        def lines() -> Iterator[str]:
            nonlocal n_records
            for record in sample_records(evaluation, remarks):
                line = f"{as_json(record)}\n"
                digest.update(line.encode())
                n_records += 1
                yield line

        folder.mkdir(parents=True, exist_ok=True)
        replace_text(samples, lines())
        if not n_records:
            raise UsageError(f"{evaluation.path} has no scored question to export")
        content = {
            **aggregate(
                evaluation,
                organization=self.organization,
                relationship=self.relationship,
                deployment_type=self.deployment_type,
                model_availability=self.model_availability,
            ),
            "detailed_evaluation_results": {
                "format": "jsonl",
                "file_path": "/".join(["data", *path_parts(evaluation), samples.name]),
                "hash_algorithm": "sha256",
                "checksum": digest.hexdigest(),
                "total_rows": n_records,
                "additional_details": {"schema_version": SCHEMA},
            },
        }
        replace_text(folder / f"{name}.json", as_json(content, indent=2) + "\n")
        counts["runs"] += 1
        counts["figures"] += len(content["evaluation_results"])
        counts["records"] += n_records
        remarks["figures without a value are left out"] += len(evaluation.summary.metrics) - len(evaluation.figures)
