"""Search all notes of a synthetic Qilin: against a brute force, by cold notes, and exact beside approximate.

Writes a world of --notes notes to FOLDER once. The parts, of which --only chooses one:

- brute: `retrieve --task` by BM25, both tasks, with and without the history, against all scores of all notes, sorted,
  and ir_measures. Prints the largest difference of any figure of any request's mean.
- cold: recall@100 of clicked notes that train never showed and of those that it did, by random notes, the most clicked
  notes of train, BM25, vectors of the query, and vectors of the user's history.
- dense: flat beside ivf over one index, on one thread: recall of clicks, share of flat's notes, time of a query.

Without --model, the encoder is a random projection of the counts of characters by their rarity: content, untrained.

usage: python benchmarks/corpus_retrieval.py FOLDER [--notes 20000] [--searches 4000] [--recommendations 4000]
    [--model MODEL] [--only brute|cold|dense]
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter, defaultdict
from pathlib import Path

import ir_measures
import numpy as np

from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.core.files import write_text
from qilin_rag.core.ties import rank_order, ranked
from qilin_rag.core.trec import format_trec
from qilin_rag.data.notes import NoteStore, open_notes_of
from qilin_rag.data.requests import HISTORY, TASKS, TaskName, questions_of, read_table
from qilin_rag.data.source import open_source
from qilin_rag.pipeline.corpus_retrieval import TOP_K, CorpusFigures, RequestsTask, retrieve_requests
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.retrievers.dense.search import default_n_probe
from qilin_rag.scorers.relevant_ranks import RankMeasure, measures_at
from qilin_rag.synth import resolve_world, synthesize

DIMENSION = 256
Rankings = dict[str, list[int]]


def write_encoder(notes: NoteStore, folder: Path) -> str:
    """Write an encoder whose vectors are random projections of a text's characters, weighted by their rarity."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    if not folder.is_dir():
        n_with: Counter[str] = Counter()
        for note in notes:
            n_with.update(set(note.text))
        vocabulary = {"[UNK]": 0} | {character: number for number, character in enumerate(sorted(n_with), start=1)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        rarity = np.array([0, *(math.log(1 + len(notes) / n_with[each]) for each in sorted(n_with))], np.float32)
        weights = np.random.default_rng(0).standard_normal((len(vocabulary), DIMENSION)).astype(np.float32)
        encoder = StaticEmbedding(tokenizer, embedding_weights=weights * rarity[:, None])
        SentenceTransformer(modules=[encoder], device="cpu").save_pretrained(str(folder))
    return str(folder)


def retrieve(world: Path, retriever: str, asked: RequestsTask, out: Path, *settings: str) -> CorpusFigures:
    """Search as the command does."""
    config: RunConfig = resolve_run(
        {"retriever": retriever, "data": str(world)}, settings, top_k=TOP_K, with_prompt=False
    )
    return retrieve_requests(config, asked, out)


def sorted_by_all_scores(world: Path, asked: RequestsTask) -> tuple[Rankings, dict[str, set[int]]]:
    """Score every note for every request and sort them all; also return what was clicked."""
    source = open_source(str(world), ["notes"])
    notes = open_notes_of(source)
    questions = questions_of(read_table(source, f"{asked.task}_test"))
    every = np.arange(len(notes))
    scores = BM25().scores([question.query for question in questions], notes, [every] * len(questions))
    rankings, clicked = {}, {}
    for question, of_notes in zip(questions, scores, strict=True):
        seen = set(question.meta[HISTORY]) if asked.without_history else set()
        order = rank_order(of_notes, notes.note_idxs, question.query)
        ranking = (int(notes.note_idxs[place]) for place in order if of_notes[place] > 0)
        rankings[question.id] = [note for note in ranking if note not in seen][:TOP_K]
        clicked[question.id] = set(question.reference_notes) - seen
    return rankings, clicked


def means(rankings: Rankings, clicked: dict[str, set[int]], measures: list[RankMeasure]) -> dict[str, float]:
    """Return the mean of each measure over the requests with a click, by ir_measures."""
    qrels = [ir_measures.Qrel(name, str(note), 1) for name, notes in clicked.items() for note in notes]
    run = [
        ir_measures.ScoredDoc(name, str(note), float(-rank))
        for name, ranking in rankings.items()
        for rank, note in enumerate(ranking)
    ]
    theirs = {measure.name: ir_measures.parse_measure(measure.of_ir_measures) for measure in measures}
    sums: defaultdict[str, float] = defaultdict(float)
    for value in ir_measures.iter_calc(list(theirs.values()), qrels, run):
        sums[str(value.measure)] += value.value if clicked[value.query_id] else 0
    n = sum(map(bool, clicked.values()))
    return {name: sums[str(measure)] / n for name, measure in theirs.items()}


def compare_with_brute_force(world: Path, folder: Path) -> None:
    """Print how far the figures are from those of a brute force."""
    for task in TASKS:
        for without_history in (False, True):
            asked = RequestsTask(task, "test", without_history)
            started = time.perf_counter()
            ours = retrieve(world, "bm25", asked, folder / "brute.trec")
            between = time.perf_counter()
            theirs = means(*sorted_by_all_scores(world, asked), measures_at(TOP_K))
            took = f"{between - started:.1f} s, brute force {time.perf_counter() - between:.1f} s"
            far = max(abs((ours.metrics[name].value or 0) - value) for name, value in theirs.items())
            told = ", ".join(f"{name} {ours.metrics[name].value:.4f}" for name in ("recall@100", "mrr@1000", "ndcg@10"))
            what = f"{task}, {ours.counts['requests']} requests, {'without' if without_history else 'with'} history"
            print(f"{what}: differs by at most {far:.1e} in {len(theirs)} figures; {told}; {took}")


def write_popular(world: Path, task: TaskName, out: Path) -> None:
    """Write the most clicked notes of train as the ranking of each request."""
    source = open_source(str(world), ["notes"])
    train = read_table(source, f"{task}_train")
    clicks = Counter(train.note_idx[train.clicked].tolist())
    popular = ranked(clicks, "", TOP_K)
    names = read_table(source, f"{task}_test").ids
    write_text(out, (format_trec([(name, popular)], "popular") for name in names))


def compare_cold(world: Path, folder: Path, model: str) -> None:
    """Print the recall of cold and of warm notes by each retriever."""
    for task in TASKS:
        write_popular(world, task, folder / "popular.trec")
        retrievers = {
            "random": "random",
            "popular": f"trec:{folder / 'popular.trec'}",
            "bm25": "bm25",
            "biencoder": f"biencoder:{model}",
            "history": f"history:{model}",
        }
        for name, retriever in retrievers.items():
            done = retrieve(world, retriever, RequestsTask(task, "test", True), folder / "cold.trec")
            slices = {part: metrics["recall@100"] for part, metrics in done.slices.items()}
            shown = ", ".join(f"{part} {each.value or 0:.4f} (n {each.n})" for part, each in slices.items())
            print(f"{task}, without history, recall@100 of {name}: {shown}, all {done.metrics['recall@100'].value:.4f}")


def compare_dense(world: Path, folder: Path, model: str) -> None:
    """Print recall and time of exact and of approximate search over the same vectors."""
    import faiss

    faiss.omp_set_num_threads(1)
    source = open_source(str(world), ["notes"])
    notes = open_notes_of(source)
    questions = questions_of(read_table(source, "search_test"))
    clicked = {question.id: set(question.reference_notes) for question in questions}
    texts = [question.query for question in questions]
    usual = default_n_probe(len(notes))
    exact: list[list[int]] = []
    for n_probe in (None, 2 * usual, usual, usual // 4):
        retriever = BiEncoder(model=model, faiss="ivf" if n_probe else "flat", n_probe=n_probe)
        queries = retriever.embed_queries(texts)
        opened = retriever.open_index(notes)
        started = time.process_time()
        rankings, _ = opened.nearest(texts, queries, notes, TOP_K, n_probe, by_distance=False)
        ms = 1000 * (time.process_time() - started) / len(texts)
        found = [[hit.note_idx for hit in hits] for hits in rankings]
        exact = exact or found
        shares = {
            k: np.mean([len({*a[:k]} & {*b[:k]}) / k for a, b in zip(exact, found, strict=True)]) for k in (100, TOP_K)
        }
        figures = means(dict(zip(clicked, found, strict=True)), clicked, measures_at(TOP_K))
        clicks = ", ".join(f"@{k} {figures[f'recall@{k}']:.4f}" for k in shares)
        same = ", ".join(f"{share:.4f} of the first {k}" for k, share in shares.items())
        how = f"ivf, n_probe {n_probe}" if n_probe else "flat"
        size = f"{len(notes):,} x {queries.shape[1]}, {len(texts)} queries"
        print(f"{size}, {how}: recall of clicks {clicks}; {same} of flat; {ms:.1f} ms of CPU a query")


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--notes", type=int, default=20_000)
    parser.add_argument("--searches", type=int, default=4000)
    parser.add_argument("--recommendations", type=int, default=4000)
    parser.add_argument("--model")
    parser.add_argument("--only", choices=["brute", "cold", "dense"])
    asked = parser.parse_args()
    world = asked.folder / f"world-{asked.notes}-{asked.searches}-{asked.recommendations}"
    asked.folder.mkdir(parents=True, exist_ok=True)
    if not world.is_dir():
        counts = {"notes": asked.notes, "searches": asked.searches, "recommendations": asked.recommendations}
        synthesize(resolve_world(counts | {"dqa": asked.searches // 10}, 3), world)
    if asked.only in (None, "brute"):
        compare_with_brute_force(world, asked.folder)
    notes = open_notes_of(open_source(str(world), ["notes"]))
    model = asked.model or write_encoder(notes, asked.folder / f"characters-{asked.notes}")
    if asked.only in (None, "cold"):
        compare_cold(world, asked.folder, model)
    if asked.only in (None, "dense"):
        compare_dense(world, asked.folder, model)


if __name__ == "__main__":
    main()
