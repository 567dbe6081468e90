"""Table 10 as parts: each ranker on each task; rankers that are trained need a GPU, or are small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qilin_rag.config.resources import find_resource, read_yaml
from qilin_rag.core.file_hashes import file_sha256
from qilin_rag.core.registry import RANKERS
from qilin_rag.data.requests import TASKS, TaskName
from qilin_rag.models.pretrained import find_model
from qilin_rag.rankers.dcn_v2 import Tables
from qilin_rag.rankers.ranking_directory import RankConfig
from qilin_rag.rankers.run import make_ranker, rank, train
from qilin_rag.rankers.trained import MANIFEST, load_ranker
from qilin_rag.reports.replication.part import Lack, PaperPart, Workplace, lacks_modules, lacks_table
from qilin_rag.reports.replication.told import tell

UNTRAINED = ("random", "production", "bm25")
"""The controls, and the paper's ranker that needs no training."""
TRAINED = ("biencoder", "crossencoder", "dcn_v2", "vlm")
"""The paper's trained rankers, by their files in configs/rankers."""
SMALL_DCN: dict[str, Any] = {"encoder": None, "batch_size": 2048, "warmup_steps": 10, "workers": 0}
"""Settings of DCN-V2 without a GPU or its encoder: no text vectors, and batches that make enough steps."""
_WITH_GPU = (
    "on a machine with a GPU add --train; or put the folders that the command train wrote there into {folder}, "
    "each by the name of its file in configs/rankers, such as biencoder_search"
)
_MODULES = {"vlm": ("torch", "transformers", "accelerate", "peft", "PIL")}


def ranking_parts() -> list[PaperPart]:
    """Return the parts of both tasks, those without training first."""
    return [
        *(_untrained(task, name) for task in TASKS for name in UNTRAINED),
        *(_trained(task, name) for task in TASKS for name in TRAINED),
    ]


def section_of(task: TaskName) -> str:
    """Return the section of the page that shows a task."""
    return f"table-10-{task}"


def trained_folder(out: Path, ranker: str, task: TaskName) -> Path:
    """Return the folder of a trained ranker; what `train` wrote elsewhere can be put there."""
    return out / "trained" / f"{ranker}_{task}"


def _untrained(task: TaskName, name: str) -> PaperPart:
    def do(place: Workplace) -> dict[str, Any]:
        return _ranked(place, task, make_ranker(name, None, {}))

    return PaperPart(f"{section_of(task)}-{name}", section_of(task), lambda place: _lacks_data(place, task), _asked, do)


def _trained(task: TaskName, name: str) -> PaperPart:
    def lacks(place: Workplace) -> list[Lack]:
        return _lacks_data(place, task) or _lacks_training(place, task, name)

    def settings(place: Workplace) -> dict[str, Any]:
        manifest = trained_folder(place.choices.out, name, task) / MANIFEST
        made = file_sha256(manifest) if manifest.is_file() else None
        return _asked(place) | {"trained": made}

    def do(place: Workplace) -> dict[str, Any]:
        folder = trained_folder(place.choices.out, name, task)
        if not (folder / MANIFEST).is_file():
            registered, of_file = _of_file(place, task, name)
            train(RANKERS.create(registered, of_file), [task], place.choices.data, folder, missing_notes="skip")
        ranker = load_ranker(folder)
        is_small = name == "dcn_v2" and {**ranker.model_dump(), **SMALL_DCN} == ranker.model_dump()
        return _ranked(place, task, ranker) | {"is_small": is_small}

    return PaperPart(f"{section_of(task)}-{name.replace('_', '-')}", section_of(task), lacks, settings, do)


def _asked(place: Workplace) -> dict[str, Any]:
    return {"first": place.choices.first}


def _ranked(place: Workplace, task: TaskName, ranker: Any) -> dict[str, Any]:
    choices = place.choices
    config = RankConfig(
        data=choices.data, task=task, first=choices.first, missing_notes="skip", runs_dir=choices.out / "runs"
    )
    done = rank(ranker, config)
    return {"run": done.directory.path.name}


def _lacks_data(place: Workplace, task: TaskName) -> list[Lack]:
    lacking = [lacks_table(name) for name in ("notes", f"{task}_test") if name not in place.tables]
    return lacking or place.lacks_rows(min(place.n_rows(f"{task}_test"), place.choices.first or 2**63))


def _lacks_training(place: Workplace, task: TaskName, name: str) -> list[Lack]:
    """Return what is lacking to train a ranker here, or to use one that is trained."""
    choices = place.choices
    lacking = lacks_modules("rankers", *_MODULES.get(name, _MODULES["vlm"][:3]))
    if (trained_folder(choices.out, name, task) / MANIFEST).is_file():
        return lacking
    if not choices.train:
        what = tell("rankers are trained only with --train")
        if name == "dcn_v2":
            return [Lack(what, tell("add --train; without a GPU DCN-V2 is trained without text vectors"))]
        return [Lack(what, tell(_WITH_GPU, folder=choices.out / "trained"))]
    if f"{task}_train" not in place.tables:
        lacking.append(lacks_table(f"{task}_train"))
    if name == "dcn_v2":
        return lacking + ([] if "user_feat" in place.tables else [lacks_table("user_feat")])
    if not place.has_gpu:
        lacking.append(Lack(tell("no GPU is seen here"), tell(_WITH_GPU, folder=choices.out / "trained")))
    model = str(_settings(task, name)["model"])
    if find_model(model) is None:
        what = tell("the model {model} is not on this machine", model=model)
        lacking.append(Lack(what, tell("fetch it: hf download {model}", model=model)))
    return lacking


def _settings(task: TaskName, name: str) -> dict[str, Any]:
    """Return the paper's settings of a ranker, from its file."""
    return read_yaml(find_resource("configs/rankers", f"{name}_{task}"))


def _of_file(place: Workplace, task: TaskName, name: str) -> tuple[str, dict[str, Any]]:
    """Return the registered name of a ranker, and the settings it is trained with on this machine."""
    settings = _settings(task, name)
    if name == "dcn_v2" and not (place.has_gpu and find_model(settings["encoder"])):
        width = Tables().note_idx[1]
        settings |= SMALL_DCN | {"tables": {"note_idx": (place.n_rows("notes") + 2, width)}}  # a step takes them all
    return settings.pop("name"), settings
