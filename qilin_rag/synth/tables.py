"""The tables of requests and their true causes, from the plan, the results shown and the clicks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from qilin_rag.data.schema import ACTIONS, FEEDBACK, PAIRS, TABLES
from qilin_rag.synth.answers import Answers
from qilin_rag.synth.cards import CARD_ANSWERS
from qilin_rag.synth.clicks import LOGIT_CAUSES, Clicks
from qilin_rag.synth.dice import Bools, Dice, Floats, Ints
from qilin_rag.synth.exposures import Searches, ShownNotes
from qilin_rag.synth.queries import Queries
from qilin_rag.synth.re_search import ReSearch
from qilin_rag.synth.sessions import SessionPlan
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.world import World

NAMES = ("search_train", "search_test", "dqa", "recommendation_train", "recommendation_test")
_TRAIN, _TEST, _DQA, _REC_TRAIN, _REC_TEST = range(5)
_PER_PAGE = 10
_RECORDED = 100
_NO_PAGE_TIME = {"dqa": -1.0, "recommendation_train": 0.0, "recommendation_test": 0.0}
_LEFT_OUT = ("question_embedding", "answers", "extra")
_FACTOID_FIRST = 8.0


def assign(world: World, dice: Dice, plan: SessionPlan, queries: Queries) -> tuple[Ints, Bools]:
    """Return the table of each request, as its position in NAMES, and whether it was shown an answer.

    The table dqa mostly has requests for facts; chance decides which other requests are for tests.
    """
    table = np.where(plan.is_search, _TRAIN, _REC_TRAIN)
    searches = np.flatnonzero(plan.is_search)
    u = dice.uniform("table", searches)
    chance = np.where(queries.is_factoid, u ** (1 / _FACTOID_FIRST), u**_FACTOID_FIRST)
    likeliest = searches[np.argsort(-chance, kind="stable")]
    table[likeliest[: world.counts.dqa]] = _DQA
    not_dqa = searches[table[searches] == _TRAIN]
    n_test = min(len(not_dqa), round(world.test_searches * len(searches)))
    table[not_dqa[np.argsort(dice.bits("test", not_dqa), kind="stable")[:n_test]]] = _TEST
    recommendations = np.flatnonzero(~plan.is_search)
    n_test = round(world.test_recommendations * len(recommendations))
    table[recommendations[np.argsort(dice.bits("test", recommendations), kind="stable")[:n_test]]] = _REC_TEST

    factoid = np.zeros(len(table), bool)
    factoid[searches] = queries.is_factoid
    share = np.where(factoid, world.shown_if_factoid, world.shown_if_not)
    return table, (table == _DQA) & (dice.uniform("answered", np.arange(len(table))) < share)


def schema(name: str) -> pa.Schema:
    """Return the columns of a table of requests on the hub, without embeddings."""
    table = TABLES[name]
    fields = []
    for column, kind in table.columns.items():
        only_tested = column in ("search_results", "rec_results", "bm25_results") and name.endswith("_train")
        if column in _LEFT_OUT or only_tested or (name == "dqa" and column == "search_results"):
            continue
        fields.append((column, pa.int64() if column == table.key else kind))
    return pa.schema(fields)


TRUTH = pa.schema(
    [
        ("table", pa.dictionary(pa.int8(), pa.string())),
        ("request", pa.int64()),
        ("note_idx", pa.int64()),
        ("position", pa.int32()),
        *((cause, pa.float32()) for cause in LOGIT_CAUSES),
        *((f"{cause}_logit", pa.float32()) for cause in LOGIT_CAUSES),
        ("examination", pa.float64()),
        ("attraction", pa.float64()),
        ("p_click", pa.float64()),
        ("examined", pa.bool_()),
        ("click", pa.bool_()),
        ("answer_quality", pa.float64()),
        ("answer_length", pa.float64()),
        *((f"p_{name}", pa.float64()) for name in FEEDBACK),
        ("p_re_search", pa.float64()),
        ("re_search", pa.bool_()),
    ]
)


class LogTables(NamedTuple):
    """The outcomes of some requests."""

    requests: Searches
    table: Ints
    shown: ShownNotes
    clicks: Clicks
    answers: Answers
    re_search: ReSearch
    recent: Sequence[Sequence[int]]
    query: Sequence[str]
    source: Floats


def truth(log: LogTables, plan: SessionPlan) -> pa.RecordBatch:
    """Return the true causes, one row per result."""
    request, clicks = log.shown.request, log.clicks
    columns: dict[str, object] = {
        "table": pa.DictionaryArray.from_arrays(pa.array(log.table[request], pa.int8()), list(NAMES)),
        "request": plan.idx[log.requests.rows[request]],
        "note_idx": log.shown.note,
        "position": log.shown.position,
        **clicks.values,
        **{f"{cause}_logit": logits for cause, logits in clicks.logits.items()},
        "examination": clicks.examination,
        "attraction": clicks.attraction,
        "p_click": clicks.examination * clicks.attraction,
        "examined": clicks.examined,
        "click": clicks.actions["click"],
        **{name: values.take(pa.array(request)) for name, values in truth_of_answers(log).items()},
    }
    return _batch(TRUTH, columns)


def truth_of_answers(log: LogTables) -> dict[str, pa.Array]:
    """Return the true causes of feedback and re-search, one value per request; null if no answer was shown."""
    answers, (p_re_search, re_search) = log.answers, log.re_search
    return {
        "answer_quality": pa.array(answers.quality, from_pandas=True),
        "answer_length": pa.array(answers.length, from_pandas=True),
        **{f"p_{name}": pa.array(p, from_pandas=True) for name, p in answers.probabilities.items()},
        "p_re_search": pa.array(p_re_search, from_pandas=True),
        "re_search": pa.array(re_search, mask=np.isnan(p_re_search)),
    }


def card_answers(log: LogTables, plan: SessionPlan) -> pa.RecordBatch:
    """Return the answers that tell what a card alone says, with the note of the card."""
    told = [(i, fact) for i, fact in enumerate(log.answers.facts) if fact]
    columns: dict[str, object] = {
        "search_idx": plan.idx[log.requests.rows[[i for i, _ in told]]],
        "note_idx": [fact.note for _, fact in told],
        "fact": [fact.text for _, fact in told],
    }
    return _batch(CARD_ANSWERS, columns)


def rows(name: str, log: LogTables, plan: SessionPlan, dice: Dice, shelf: Shelf) -> pa.RecordBatch:
    """Return the rows of one table."""
    chosen = np.flatnonzero(log.table == NAMES.index(name))
    row = log.requests.rows[chosen]
    details = "search_result_details_with_idx" if TABLES[name].key == "search_idx" else "rec_result_details_with_idx"
    concept_and_name = _asked(log, shelf, chosen)
    results = [log.shown.note[log.shown.request == i] for i in chosen] if name.endswith("_test") else []
    columns: dict[str, object] = {
        TABLES[name].key: plan.idx[row],
        "query": [log.query[i] for i in chosen.tolist()],
        "query_from_type": pa.array(log.source[chosen], from_pandas=True),
        "session_idx": plan.app_session[row],
        "user_idx": plan.user[row],
        "recent_clicked_note_idxs": [log.recent[i] for i in chosen.tolist()],
        details: _details(name, log, plan, dice, chosen),
        "dpr_results": _recorded("dpr", dice, shelf, row, *concept_and_name),
        "bm25_results": _recorded("bm25", dice, shelf, row, *concept_and_name),
        "search_results": results,
        "rec_results": results,
        "dqa_output": [log.answers.texts[i] for i in chosen],
        "ref_note_idx_list": [log.answers.references[i] for i in chosen],
        **{flag: values[chosen] for flag, values in log.answers.feedback.items()},
    }
    return _batch(schema(name), columns)


def _batch(fields: pa.Schema, columns: dict[str, object]) -> pa.RecordBatch:
    arrays = []
    for field in fields:
        values = columns[field.name]
        arrays.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=fields)


def _details(name: str, log: LogTables, plan: SessionPlan, dice: Dice, chosen: Ints) -> pa.Array:
    """Return the results of the chosen requests, with the users' actions and their times; later pages come later."""
    shown = log.shown
    bounds = np.searchsorted(shown.request, np.arange(len(log.requests.rows) + 1))
    is_chosen = np.zeros(len(log.requests.rows), bool)
    is_chosen[chosen] = True
    chosen_results = np.flatnonzero(is_chosen[shown.request])
    request, note = shown.request[chosen_results], shown.note[chosen_results]
    row = log.requests.rows[request]
    page = (chosen_results - bounds[request]) // _PER_PAGE
    later = page * (3 + dice.below(5, "page", row))
    stamp_s = plan.stamp_s[row] + later
    kind = next(kind for column, kind in TABLES[name].columns.items() if column.endswith("_details_with_idx"))
    stamp = next(field.name for field in kind.value_type if field.name.endswith("_timestamp"))
    searched = stamp == "search_timestamp"
    clicked = log.clicks.actions["click"][chosen_results]
    seconds = np.round(np.exp(2.7 + dice.normal("page-time", row, shown.position[chosen_results])), 3)
    missing = _NO_PAGE_TIME.get(name, np.nan)
    values = {
        "note_idx": note,
        "position": shown.position[chosen_results],
        **{action: log.clicks.actions[action][chosen_results].astype(np.int64) for action in ACTIONS},
        stamp: stamp_s if searched else stamp_s * 1000 + later * 37,
        "page_time": np.where(clicked & searched, seconds, missing),
        "note_id": [
            f"{bits:016x}{i:08x}" for bits, i in zip(dice.bits("id", note).tolist(), note.tolist(), strict=True)
        ],
    }
    arrays = [pa.array(values[field.name], field.type) for field in kind.value_type]
    lengths = (bounds[1:] - bounds[:-1])[chosen]
    structs = pa.StructArray.from_arrays(arrays, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(_offsets(lengths)), structs, type=kind)


def _asked(log: LogTables, shelf: Shelf, chosen: Ints) -> tuple[Ints, Ints]:
    """Return the concept and name of each request; for a recommendation, those of the newest click."""
    newest = np.array([log.recent[i][0] for i in chosen.tolist()], np.int64)
    searched = log.requests.is_search[chosen]
    concept = np.where(searched, log.requests.concept[chosen], shelf.concept(newest))
    return concept, np.where(searched, log.requests.form[chosen], shelf.form(newest))


def _recorded(kind: str, dice: Dice, shelf: Shelf, row: Ints, concept: Ints, form: Ints) -> pa.Array:
    """Return results of a retriever: BM25 sees the query's own words, the bi-encoder their meaning."""
    starts = shelf.concept_starts[concept]
    sizes = shelf.concept_starts[concept + 1] - starts
    first = starts + (dice.bits("recorded", row) >> np.uint64(2)).astype(np.int64) % sizes
    ranks = np.arange(min(_RECORDED, shelf.n_notes))
    note = shelf.note_at((first[:, None] + ranks[None, :]) % shelf.n_notes)
    concepts = shelf.concept(note)
    same = concepts == concept[:, None]
    noise = dice.normal(kind, row[:, None], ranks[None, :])
    if kind == "bm25":
        score = 8.0 + 10.0 * (same & (shelf.form(note) == form[:, None])) + noise
    else:
        score = 320.0 + 6.0 * same + noise
    best_first = np.argsort(-score, axis=1, kind="stable")
    pairs = np.stack([np.take_along_axis(values, best_first, axis=1) for values in (note, score)], axis=2)
    inner = pa.ListArray.from_arrays(pa.array(np.arange(0, pairs.size + 1, 2, dtype=np.int32)), pairs.ravel())
    return pa.ListArray.from_arrays(pa.array(_offsets(np.full(len(row), len(ranks)))), inner, type=PAIRS)


def _offsets(lengths: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
