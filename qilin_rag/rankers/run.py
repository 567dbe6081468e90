"""Rank searches and recommendations: train rankers on the train log, and judge them on a split of it.

A ranking has its own folder: `ranking.json` (what it is), `run.trec`, `figures.jsonl` (a line for each request) and
`summary.json`. The same ranker on the same requests is found again by its fingerprint, and nothing is done twice.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qilin_rag.core.directories import find_directory, locked
from qilin_rag.core.environment import git_commit, installed_packages, now
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.files import write_text
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.note_fields import IMAGE_TEXT, TITLE_AND_CONTENT, NoteField
from qilin_rag.core.registry import RANKERS
from qilin_rag.core.third_party import third_party
from qilin_rag.core.trec import format_trec
from qilin_rag.core.types import MissingNotes
from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.exposures import concat
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.requests import (
    TASKS,
    VALIDATION_SHARE,
    ByAnswer,
    Floats,
    Requests,
    TaskName,
    content_sha256,
    earlier_by_answer,
    fields_read,
    split_by_time,
    table_of,
)
from qilin_rag.data.schema import REQUEST_TABLES, TRAIN_TABLES
from qilin_rag.data.source import Source, open_source
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.candidates import AskedRequests, parse_candidates
from qilin_rag.rankers.judge_ranking import ScoredRanking, judge_ranking
from qilin_rag.rankers.ranking_directory import (
    MANIFEST,
    RankConfig,
    RankedBy,
    RankingDirectory,
    RankingManifest,
    RankingSummary,
)
from qilin_rag.rankers.split_log import SplitLog
from qilin_rag.rankers.trained import Trained, TrainedRanker, load_ranker

logger = logging.getLogger(__name__)
_FINGERPRINT_VERSION = 2


class Ranking(NamedTuple):
    """A finished ranking: its folder, and its figures."""

    directory: RankingDirectory
    manifest: RankingManifest
    summary: RankingSummary


def make_ranker(name: str | None, checkpoint: Path | None, settings: Mapping[str, Any]) -> Ranker:
    """Make a ranker by its name, or open the folder of a trained one.

    Raises:
        UsageError: Nothing is named, or a trained ranker is named without its folder.
    """
    _refuse_checkpoint(settings.get("checkpoint"))
    if checkpoint is not None:
        return load_ranker(checkpoint, name, **settings)
    if name is None:
        raise UsageError(
            "no ranker is named; name one (--ranker; see: qilin-rag list rankers), "
            "or the folder of a trained one (--checkpoint)"
        )
    ranker: Ranker = RANKERS.create(name, settings)
    ranker.as_text()
    if isinstance(ranker, TrainedRanker):
        raise UsageError(f"ranker {name} has to be trained first; name the folder that `train` wrote (--checkpoint)")
    return ranker


def rank(ranker: Ranker, config: RankConfig) -> Ranking:
    """Rank the requests of a split and judge the order; a ranking that exists is not made again.

    Raises:
        UsageError: The candidates can't be had, or the ranker needs an order that they don't have.
    """
    candidates = parse_candidates(config.candidates, config.seed)
    if ranker.reads_order and not candidates.is_ordered:
        raise UsageError(
            f"ranker {ranker.called()} takes the order of the candidates, and candidates {candidates.name} have none; "
            "name another ranker, or other candidates"
        )
    if isinstance(ranker, TrainedRanker):
        ranker.refuse_seen(config.split)
    share = ranker.validation_share if isinstance(ranker, TrainedRanker) else VALIDATION_SHARE
    tables = ("notes", IMAGE_TEXT, "user_feat", *REQUEST_TABLES)
    log = SplitLog(open_source(config.data, tables, log=config.log), share)
    asked = log.split(config.task, config.split)
    first = config.first if config.first is not None and config.first < len(asked) else None
    asked = asked.take(np.arange(len(asked))[:first])
    catalogue = open_catalogue(log.source, config.note_fields)
    found = candidates.find(AskedRequests(asked, config.task, config.split, log, catalogue))
    requests = known_candidates(found, catalogue, config.missing_notes)
    if ranker.reads_clicks:
        catalogue = catalogue._replace(clicks=log.clicks([config.task], config.split))
    identity: dict[str, Any] = {
        "fingerprint_version": _FINGERPRINT_VERSION,
        "ranker": ranker.identity(),
        "data": content_sha256(requests, catalogue),
        "task": config.task,
        "split": config.split,
        "first": first,
        "missing_notes": config.missing_notes,
        **fields_read(catalogue),
    }
    if absent := [name for name in REQUEST_TABLES if name not in log.source.tables()]:
        identity["absent"] = absent  # slices depend on these tables, so that they are made again when one is added
    task = config.task if config.split == "test" else f"{config.task}-{config.split}"
    if changed := config.log.changed():
        identity["log"] = changed
    if catalogue.clicks is not None:
        identity["clicks"] = catalogue.clicks.sha256
    if chosen := candidates.identity(asked):
        identity["candidates"] = chosen
        task = f"{task}-{candidates.name}"
    names = (log.source.name, task, ranker.called())
    directory = RankingDirectory(find_directory(config.runs_dir, names, identity, MANIFEST))
    with locked(directory.path):
        if not config.fresh and (directory.path / MANIFEST).exists():
            manifest = directory.read_manifest()
            if manifest.identity != identity:
                raise UsageError(f"{directory.path} belongs to another ranking; name another folder (--runs-dir)")
            if manifest.state == "complete":
                summary = directory.read_summary()
                lacking = "" if summary.pooled else " with the figures that came since, such as AUC"
                logger.info("%s exists already; to rank again%s: --fresh", directory.path, lacking)
                return Ranking(directory, manifest, summary)
        manifest = _begun(ranker, config, identity, log.source)
        directory.write_manifest(manifest)
        scores = score_candidates(ranker, requests, catalogue)
        work = ScoredRanking(ranker, candidates, asked, found, requests, scores, catalogue, log, config)
        lines, summary = judge_ranking(work)
        rankings = zip(requests.ids, requests.rankings(scores), strict=True)
        write_text(directory.path / "run.trec", format_trec(rankings, tag=directory.path.name))
        write_text(directory.path / "figures.jsonl", "".join(f"{line.model_dump_json()}\n" for line in lines))
        write_text(directory.path / "summary.json", summary.model_dump_json(indent=2) + "\n")
        manifest = manifest.model_copy(update={"state": "complete", "updated": now()})
        directory.write_manifest(manifest)
    return Ranking(directory, manifest, summary)


def train(
    ranker: Ranker,
    tasks: Sequence[TaskName],
    data: str,
    out: Path,
    limit: int | None = None,
    missing_notes: MissingNotes = "error",
    log: LogSettings | None = None,
    note_fields: Sequence[NoteField] = TITLE_AND_CONTENT,
    by_answer: ByAnswer | None = None,
) -> Trained:
    """Train on the train tables of these tasks; their latest requests are kept for validation, and no other is read.

    A ranker that reads histories also reads the clicks of the other task's train table.

    Args:
        ranker: The ranker to train.
        tasks: The tasks whose train tables are read.
        data: The data set.
        out: The folder to write.
        limit: The first requests of a permutation of the train requests, by the ranker's seed. Default: all.
        missing_notes: Whether candidates without a note are an error, or skipped.
        log: How requests are read.
        note_fields: The fields of a note that the ranker reads.
        by_answer: Train on the searches of the table dqa that were shown an answer, or on the others, instead of the
            train table; without the latest ones, which the split of this name ranks.
    """
    if not isinstance(ranker, TrainedRanker):
        raise UsageError(f"ranker {ranker.called()} is not trained; the command rank takes it as it is")
    ranker.as_text()
    _refuse_checkpoint(ranker.checkpoint)
    require("rankers", "torch", "transformers", "accelerate", what="training")
    from qilin_rag.rankers.training import train_ranker

    names = [table_of(task, by_answer or "train") for task in tasks]
    opened = dict.fromkeys([*names, *(TRAIN_TABLES if ranker.reads_clicks else ())])
    source = open_source(data, ("notes", IMAGE_TEXT, "user_feat", *opened), log=log)
    request_log = SplitLog(source, ranker.validation_share)
    read = [request_log.table(name) for name in names]
    read = [earlier_by_answer(table, by_answer) for table in read] if by_answer else read
    cut = [split_by_time(table, ranker.validation_share) for table in read]
    train_requests, validation = (concat([both[which] for both in cut]) for which in (0, 1))
    if limit is not None and limit < len(train_requests):
        rows = np.random.default_rng(ranker.seed).permutation(len(train_requests))[:limit]
        train_requests = train_requests.take(np.sort(rows))
    catalogue = open_catalogue(source, note_fields)
    if ranker.reads_clicks:
        catalogue = catalogue._replace(clicks=request_log.clicks(tasks, "train"))
    train_requests, validation = (
        known_candidates(requests, catalogue, missing_notes) for requests in (train_requests, validation)
    )
    with third_party(f"ranker {ranker.called()}"):
        return train_ranker(ranker, train_requests, validation, catalogue, out, by_answer)


def _refuse_checkpoint(set_to: object) -> None:
    """Refuse a `checkpoint` in the settings: its model would be used with settings that it was not trained with."""
    if set_to is not None:
        raise UsageError(f"checkpoint {set_to} is not a setting; `rank --checkpoint` takes what `train` wrote")


def parse_tasks(given: str) -> list[TaskName]:
    """Parse `search`, `recommendation`, or both with a comma between them."""
    names = [name.strip() for name in given.split(",")]
    if unknown := next((name for name in names if name not in TASKS), None):
        raise UsageError(f"task {unknown!r} does not exist; there are {' and '.join(TASKS)}")
    return [task for task in TASKS if task in names]


def known_candidates(requests: Requests, catalogue: Catalogue, missing_notes: MissingNotes) -> Requests:
    """Keep the candidates whose note the data has; raise an error for the others, or leave them out."""
    is_missing = np.isin(requests.note_idx, catalogue.notes.missing(requests.note_idx))
    if not is_missing.any():
        return requests
    if missing_notes == "error":
        raise UsageError(
            f"{is_missing.sum():,} of {requests.n_candidates:,} candidates are notes that the data lacks, the first "
            f"is {requests.note_idx[is_missing][0]}; to leave them out: missing_notes=skip (--missing-notes skip)"
        )
    if is_missing.all():
        raise UsageError(
            f"of all {requests.n_candidates:,} candidates the data has no note, so there is nothing to rank"
        )
    counts = f"{is_missing.sum():,} of {requests.n_candidates:,}"
    logger.info("%s candidates left out: the data lacks their notes", counts)
    return requests.with_candidates(~is_missing)


def score_candidates(ranker: Ranker, requests: Requests, catalogue: Catalogue) -> Floats:
    """Return the ranker's scores; an error of the ranker, and wrong or infinite scores, name the ranker.

    The ranker sees no request without candidates.
    """
    has_candidates = np.diff(requests.offsets) > 0
    if not has_candidates.all():
        requests = requests.take(has_candidates)
    what = f"ranker {ranker.called()}"
    with third_party(what):
        scores: Floats = np.asarray(ranker.score(requests, catalogue), np.float32)
    if scores.shape != (requests.n_candidates,):
        raise QilinError(f"{what} gave scores of shape {scores.shape} for {requests.n_candidates} candidates")
    if not (is_finite := np.isfinite(scores)).all():
        row = int(np.flatnonzero(~is_finite)[0])
        request = requests.ids[requests.request[row]]
        raise QilinError(
            f"{what} gave {(~is_finite).sum()} of {len(scores)} candidates no finite score, the first is note "
            f"{requests.note_idx[row]} of request {request}: {scores[row]}"
        )
    return scores


def _begun(ranker: Ranker, config: RankConfig, identity: dict[str, Any], source: Source) -> RankingManifest:
    """Return the manifest of a ranking that begins now."""
    name = ranker.called()
    checkpoint = ranker.checkpoint if isinstance(ranker, TrainedRanker) else None
    return RankingManifest(
        state="incomplete",
        fingerprint=fingerprint(identity),
        identity=identity,
        config=config,
        ranker=RankedBy(
            name=name,
            settings=ranker.model_dump(mode="json"),
            changed=ranker.changed(RANKERS.implied(name)),
            checkpoint=None if checkpoint is None else str(checkpoint),
        ),
        label=source.label,
        requests_sha256=identity["data"],
        packages=installed_packages(),
        python=platform.python_version(),
        git_commit=git_commit(),
        started=now(),
        updated=now(),
    )
