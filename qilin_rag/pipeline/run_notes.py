"""Read the notes of a run from its data, as they stood in its prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.note_fields import TITLE_AND_CONTENT, read_note_fields
from qilin_rag.core.types import Note, Sample
from qilin_rag.data import Dataset, NoteStore, load_dataset
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory


def read_prompt_notes(
    directory: RunDirectory, samples: Sequence[Sample], data: str | None = None
) -> Mapping[str, list[Note]]:
    """Return the notes in the prompt of each question, in its order, and cut as there, by the id of the question.

    A question is left out if it is not known which notes its prompt held.

    Args:
        directory: The run directory.
        samples: Samples of the run.
        data: The data; None takes the data that the run names.

    Raises:
        UsageError: The data can't be read, or has changed since the run.
    """
    numbers = {sample.question_id: sample.known_prompt_notes for sample in samples}
    known = {question_id: of_prompt for question_id, of_prompt in numbers.items() if of_prompt is not None}
    wanted = sorted({number for of_prompt in known.values() for number in of_prompt})
    notes: dict[int, Note] = {}
    if wanted:
        manifest = directory.read_manifest()
        named = manifest.config["data"] if data is None else data
        store, why = open_notes([manifest.model_copy(update={"config": {**manifest.config, "data": named}})])
        if store is None:
            raise UsageError(f"{directory.path}: the notes of its prompts can't be read: {why}; name its data (--data)")
        n_chars = manifest.config["note_chars"]
        found = store.get(sorted(set(wanted) - set(store.missing(wanted))))
        notes = {note.note_idx: note.model_copy(update={"content": note.content[:n_chars]}) for note in found}
    return {
        question_id: [notes[number] for number in of_prompt]
        for question_id, of_prompt in known.items()
        if all(number in notes for number in of_prompt)
    }


def open_notes(manifests: Iterable[Manifest]) -> tuple[NoteStore | None, str]:
    """Open the notes that these runs are about.

    Args:
        manifests: of the runs, which are about one set of questions.

    Returns:
        The notes and "", or None and why they are not shown: their data is gone or has changed.
    """
    dataset, why = open_data(manifests)
    return dataset.notes if dataset else None, why


def open_data(manifests: Iterable[Manifest]) -> tuple[Dataset | None, str]:
    """Open the data that these runs are about.

    Args:
        manifests: of the runs, which are about one set of questions.

    Returns:
        The data and "", or None and why it can't be read: it is gone or has changed.
    """
    why = ""
    seen = []
    for manifest in manifests:
        data, answers, references = (manifest.config[name] for name in ("data", "answers", "references"))
        fields = manifest.config.get("note_fields") or TITLE_AND_CONTENT
        texts = manifest.identity.get("note_texts")
        if (data, answers, references, fields, texts) in seen:
            continue
        seen.append((data, answers, references, fields, texts))
        try:
            dataset = load_dataset(data, answers, references, False, read_note_fields(fields))
            if dataset.sha256 != manifest.data["sha256"]:
                why = f"data {data!r} has changed since the run"
            elif texts not in (None, dataset.notes.sha256):
                why = f"the image_text of data {data!r} has changed since the run"
            else:
                return dataset, ""
        except ValueError as error:
            why = f"note_fields: {error}"
        except QilinError as error:
            why = " ".join(str(error).split())
    return None, why
