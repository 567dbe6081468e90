"""`biencoder` with `base_url`: a server's vectors, its failures, killed builds, and another model behind the name."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.retrievers.dense.retriever import BiEncoder
from tests.conftest import Cli, launch, wait_until, write_jsonl
from tests.embedding_server import DIMENSION, MODEL, EmbeddingServer, Items, as_base64, vector

pytest.importorskip("faiss")
N_NOTES = 90
WORDS = "咖啡茶水温度手冲研磨云南旅行攻略护照续签皮肤泛红敏感猫狗粮食谱烤箱面包发酵酵母糖盐油酱醋"


@pytest.fixture
def served() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as server:
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(5)
    texts = ["".join(rng.choice(list(WORDS), int(rng.integers(4, 40)))) for _ in range(N_NOTES)]
    texts[7] = texts[3]  # equal notes are encoded once
    notes = [{"note_idx": i, "title": text[:4], "content": text} for i, text in enumerate(texts)]
    questions = [
        {"search_idx": i, "query": texts[i][:6], "answers": [texts[i]], "ref_note_idx_list": [i]} for i in range(12)
    ]
    write_jsonl(folder / "notes.jsonl", notes)
    write_jsonl(folder / "dqa.jsonl", questions)
    return folder


@pytest.fixture
def dataset(data: Path) -> Dataset:
    return load_dataset(str(data))


def retriever(server: EmbeddingServer, **settings: Any) -> BiEncoder:
    return BiEncoder(**{"model": MODEL, "base_url": server.url, "batch_size": 8, "max_tries": 2, **settings})


def vectors_of(folder: Path) -> Any:
    return np.load(folder / "vectors.npy", allow_pickle=False).astype(np.float32)


def expected(dataset: Dataset, prefix: str = "passage: ") -> Any:
    rows = np.array([vector(f"{prefix}{note.text}") for note in dataset.notes])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_notes_and_queries_get_the_servers_vectors_with_the_prefixes_of_the_family(
    served: EmbeddingServer, dataset: Dataset, tmp_path: Path
) -> None:
    served.latency_s = 0.02
    mine = retriever(served, concurrency=3)
    mine.write_index(dataset.notes, tmp_path / "index")
    assert np.abs(vectors_of(tmp_path / "index") - expected(dataset)).max() < 1e-3
    sent = Counter(text for text in served.answered if text.startswith("passage: "))
    assert sent == Counter({f"passage: {note.text}" for note in dataset.notes})
    assert 1 < served.most_at_once <= 3
    hits = mine.search(dataset.questions, dataset.notes, 5)
    queries = np.array([vector(f"query: {question.query}") for question in dataset.questions])
    scores = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ expected(dataset).T
    for of_question, row in zip(hits, scores, strict=True):
        assert np.allclose([hit.score for hit in of_question], np.sort(row)[::-1][:5], atol=1e-3)
    assert BiEncoder(model=MODEL, base_url=served.url, index=tmp_path / "index", timeout_s=9).search(
        dataset.questions, dataset.notes, 5
    ) == hits  # fmt: skip
    dots = retriever(served, normalize=False, query_prefix="", passage_prefix="", query_fields={"input_type": "query"})
    assert np.allclose(dots.embed_queries(["咖啡"]), [vector("咖啡")], atol=1e-5)
    assert served.bodies[-1]["input_type"] == "query"


def test_answers_in_any_order_and_form_are_read(served: EmbeddingServer, dataset: Dataset, tmp_path: Path) -> None:
    forms: list[tuple[dict[str, Any], Callable[[int, Items], Any]]] = [
        ({}, lambda n, items: items[::-1]),
        ({}, lambda n, items: as_base64(items)),
        ({}, lambda n, items: [{"embedding": item["embedding"]} for item in items]),
        ({"base_url": f"{served.root}/embed"}, lambda n, items: items),
        ({"base_url": f"{served.url}/embeddings"}, lambda n, items: items),
    ]
    for number, (settings, change) in enumerate(forms):
        served.change = change
        retriever(served, **settings).write_index(dataset.notes, tmp_path / str(number))
        assert np.abs(vectors_of(tmp_path / str(number)) - expected(dataset)).max() < 1e-3


def of_one(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[int, Items], Any]:
    """Change the second vector of answers of whole batches."""
    return lambda n, items: [change(item) if i == 1 and len(items) > 5 else item for i, item in enumerate(items)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n, items: items[:-1], r"\d vectors for \d texts"),
        (lambda n, items: [*items, items[0]], r"\d vectors for \d texts"),
        (lambda n, items: [item | {"index": 0} for item in items], "numbered"),
        (lambda n, items: [item | {"index": "0"} for item in items], "numbered"),
        (lambda n, items: "vectors", "unreadable answer: vectors"),
        (of_one(lambda item: item | {"embedding": [float("nan")] * DIMENSION}), "not finite .*note "),
        (of_one(lambda item: item | {"embedding": [None] * DIMENSION}), "not finite .*note "),
        (of_one(lambda item: item | {"embedding": [1e39] * DIMENSION}), "not finite .*note "),
        (of_one(lambda item: item | {"embedding": [10**400] * DIMENSION}), "a number that is too large"),
        (of_one(lambda item: item | {"embedding": [0.0] * DIMENSION}), "zero .*note "),
        (of_one(lambda item: item | {"embedding": [1.0] * 5}), "5, 48 dimensions"),
        (of_one(lambda item: item | {"embedding": "no base64"}), "base64"),
        (of_one(lambda item: item | {"embedding": ["1"]}), "list of numbers"),
        (of_one(lambda item: item | {"embedding": []}), "0, 48 dimensions"),
        (lambda n, items: [item | {"embedding": item["embedding"][:9]} for item in items], "9 dimensions, not 48"),
    ],
)
def test_a_wrong_answer_is_one_line_and_none_of_it_is_kept(
    served: EmbeddingServer,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[int, Items], Any],
    said: str,
) -> None:
    monkeypatch.setattr("qilin_rag.llms.retry.BASE_S", 0.0)
    served.change = lambda n, items: change(n, items) if n > 4 else items
    with pytest.raises(QilinError, match=said) as caught:
        retriever(served, concurrency=1).write_index(dataset.notes, tmp_path / "index")
    assert "\n" not in str(caught.value) and MODEL in str(caught.value)
    assert not (tmp_path / "index").exists()
    before = [text for text in served.answered[: 4 + 3 * 9] if text.startswith("passage: ")]
    served.change = lambda n, items: items
    n_answered = len(served.answered)
    retriever(served, concurrency=1).write_index(dataset.notes, tmp_path / "index")
    assert np.abs(vectors_of(tmp_path / "index") - expected(dataset)).max() < 1e-3
    assert len(before) == 24 and not set(before) & set(served.answered[n_answered:])


@pytest.mark.parametrize(
    "refusal",
    [
        (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}),
        (500, {"error": "inference failed"}, {}),
        (503, "<html><title>Bad gateway</title></html>", {}),
        (0, None, {}),
    ],
)
def test_passing_failures_are_tried_again(
    served: EmbeddingServer, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Any
) -> None:
    monkeypatch.setattr("qilin_rag.llms.retry.BASE_S", 0.0)
    served.refuse = lambda n, texts: refusal if n % 3 == 0 else None
    retriever(served, max_tries=9).write_index(dataset.notes, tmp_path / "index")
    assert np.abs(vectors_of(tmp_path / "index") - expected(dataset)).max() < 1e-3
    assert max(Counter(served.answered).values()) <= 1 + -(-N_NOTES // 8)  # the probe goes with each batch


def test_a_server_that_hangs_or_dies_is_one_line(
    served: EmbeddingServer, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qilin_rag.llms.retry.BASE_S", 0.0)
    served.latency_s = 0.5
    with pytest.raises(QilinError, match=r"no answer within 0\.1 s .*resumes"):
        retriever(served, timeout_s=0.1).write_index(dataset.notes, tmp_path / "index")
    with pytest.raises(QilinError, match=r"no server answers at http://127\.0\.0\.1:9/v1 .*retriever\.base_url"):
        retriever(served, base_url="http://127.0.0.1:9/v1").write_index(dataset.notes, tmp_path / "index")
    with pytest.raises(UsageError, match=f"serves '{MODEL}', not 'bge-m3'; .*retriever.model=NAME"):
        retriever(served, model="bge-m3").write_index(dataset.notes, tmp_path / "index")


def test_refusals_are_told_apart(served: EmbeddingServer, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = retriever(served)
    key = "sk-0123456789abcdef"
    monkeypatch.setenv("MY_KEY", key)
    served.refuse = lambda n, texts: (401, {"error": {"message": f"wrong key {key}"}}, {})
    with pytest.raises(QilinError, match="refused the key in MY_KEY") as caught:
        retriever(served, api_key_env="MY_KEY").embed_queries(["咖啡"])
    assert key not in str(caught.value) and served.keys[-1] == f"Bearer {key}"
    served.refuse = lambda n, texts: (501, {"error": {"message": "start it with --embeddings"}}, {})
    with pytest.raises(QilinError, match="makes no vectors: start it with --embeddings"):
        mine.embed_queries(["咖啡"])
    served.refuse = lambda n, texts: (
        (400, {"error": "no such word"}, {}) if any("茶" in each for each in texts) else None
    )
    with pytest.raises(UsageError, match=r"makes no vector of query '茶': .*no such word"):
        mine.embed_queries(["咖啡", "茶", "水"])
    served.refuse = lambda n, texts: (422, {"error": "batch size > maximum"}, {}) if len(texts) > 2 else None
    assert mine.embed_queries([*"咖啡茶水温", "咖啡"]).shape == (6, DIMENSION)


def test_texts_that_are_too_long_are_cut_at_the_same_place_and_counted(
    served: EmbeddingServer, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served.longest = 30
    caplog.set_level("INFO")
    n_long = len({note.text for note in dataset.notes if len(f"passage: {note.text}") > 30})
    retriever(served).write_index(dataset.notes, tmp_path / "one")
    assert f"refused {n_long} texts as too long" in caplog.text
    retriever(served, batch_size=5, concurrency=1).write_index(dataset.notes, tmp_path / "two")
    assert (vectors_of(tmp_path / "one") == vectors_of(tmp_path / "two")).all()
    retriever(served, max_chars=12).write_index(dataset.notes, tmp_path / "three")
    assert "cut to 12 characters (max_chars)" in caplog.text
    assert max(map(len, served.answered[-N_NOTES:])) <= max(len("passage: ") + 12, 30)
    served.longest = len("query: ")
    with pytest.raises(UsageError, match="too long, however short"):
        retriever(served).embed_queries(["咖啡"])


def test_a_server_that_reads_only_a_part_is_told_by_its_count(
    served: EmbeddingServer, caplog: pytest.LogCaptureFixture
) -> None:
    served.counts_tokens = False
    caplog.set_level("INFO")
    mine = retriever(served, price={"currency": "USD", "prompt_per_mtok": 20, "as_of": "2026-11"})
    mine.embed_queries(["咖啡" * 300])
    assert "tokens not counted, cost unknown" in caplog.text and "only a part" not in caplog.text
    served.counts_tokens = True
    mine.embed_queries(["咖啡" * 300])
    assert "607 tokens, cost 0.01" in caplog.text and "only a part" not in caplog.text
    served.reads = 9
    mine.embed_queries(["".join(map(chr, range(0x4E00, 0x4E00 + 600)))])
    assert "read only a part of texts, by its count of tokens (among 1 text)" in caplog.text


def test_another_model_behind_the_name_is_noticed(served: EmbeddingServer, dataset: Dataset, tmp_path: Path) -> None:
    retriever(served).write_index(dataset.notes, tmp_path / "index")
    mine = retriever(served, index=tmp_path / "index")
    served.change = lambda n, items: [
        item | {"embedding": [value * 1.01 + 0.001 for value in item["embedding"]]} for item in items
    ]
    assert mine.search(dataset.questions[:1], dataset.notes, 3)  # another rounding is the same model
    served.change = lambda n, items: items
    for change, difference in (({"seed": 1}, r"cosine 0\.\d+"), ({"seed": 0, "dimension": 12}, "12 dimensions")):
        for name, value in change.items():
            setattr(served, name, value)
        with pytest.raises(UsageError, match=rf"with another model than the one that .*index.*{difference}") as caught:
            retriever(served, index=tmp_path / "index").search(dataset.questions, dataset.notes, 5)
        assert "\n" not in str(caught.value) and (tmp_path / "index").is_dir()


def test_another_model_in_the_middle_of_a_build_leaves_nothing_behind(
    served: EmbeddingServer, dataset: Dataset, tmp_path: Path
) -> None:
    def change(n: int, items: Items) -> Items:
        served.seed = 1 if n >= 5 else 0
        return items

    served.change = change
    with pytest.raises(UsageError, match="another model than the one that this build began with"):
        retriever(served, concurrency=1).write_index(dataset.notes, tmp_path / "index")
    with pytest.raises(UsageError, match="another model than the one that this build began with"):
        retriever(served, concurrency=1).write_index(dataset.notes, tmp_path / "index")
    served.seed, served.change = 0, lambda n, items: items
    retriever(served).write_index(dataset.notes, tmp_path / "index")
    assert np.abs(vectors_of(tmp_path / "index") - expected(dataset)).max() < 1e-3


def test_the_index_fits_any_address_of_the_model_and_no_other_settings(
    served: EmbeddingServer, dataset: Dataset, tmp_path: Path
) -> None:
    retriever(served).write_index(dataset.notes, tmp_path / "index")
    with EmbeddingServer() as other:
        again = retriever(other, index=tmp_path / "index", api_key_env="X", concurrency=2)
        assert again.search(dataset.questions[:1], dataset.notes, 3)
    for settings, difference in (
        ({"passage_prefix": "文："}, "passage_prefix"),
        ({"max_chars": 9}, "max_chars"),
        ({"normalize": False}, "normalize"),
        ({"passage_fields": {"input_type": "passage"}}, "passage_fields"),
    ):
        with pytest.raises(UsageError, match=f"does not fit: .*{difference}"):
            retriever(served, index=tmp_path / "index", **settings).search(dataset.questions, dataset.notes, 5)
    assert retriever(served).identity() == retriever(served, base_url="http://elsewhere:1/v1").identity()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_url": "127.0.0.1:8000"}, "expected an address"),
        ({"base_url": "http://me:secret@host/v1"}, "password"),
        ({"base_url": "http://h/v1", "pooling": "cls"}, "pooling"),
        ({"base_url": "http://h/v1", "device": "cpu"}, "device"),
        ({"base_url": "http://h/v1", "note_input": "image"}, "note_input"),
        ({"base_url": "http://h/v1", "query": {"sig": "x"}}, "api_key_env"),
        ({"base_url": "http://h/v1", "query_fields": {"api_key": "sk-0123456789abcdef0123"}}, "key"),
        ({"max_chars": 9}, "max_chars is a setting of a server"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, UsageError), match=said):
        BiEncoder(**settings)


@pytest.mark.slow
def test_a_build_that_is_killed_resumes_to_the_same_bytes(
    served: EmbeddingServer, data: Path, dataset: Dataset, tmp_path: Path
) -> None:
    retriever(served).write_index(dataset.notes, tmp_path / "whole")
    served.answered.clear()
    served.bodies.clear()
    served.latency_s = 0.1
    out = tmp_path / "killed"
    settings = {"base_url": served.url, "model": MODEL, "batch_size": 8, "concurrency": 1}
    flags = [f"--set=retriever.{name}={value}" for name, value in settings.items()]
    process = launch("index", "biencoder", f"--data={data}", f"--out={out}", *flags)
    wait_until(lambda: len(served.answered) > 5 * 9, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: served.n_at_once == 0)
    n_before = len(served.bodies)
    served.latency_s = 0.0
    retriever(served).write_index(dataset.notes, out)
    files = sorted(path.name for path in out.iterdir())
    assert files == ["probe.npy", "qilin_rag.json", "vectors.npy"]
    assert (out / "vectors.npy").read_bytes() == (tmp_path / "whole" / "vectors.npy").read_bytes()
    sent = Counter(text for body in served.bodies for text in body["input"] if text.startswith("passage: "))
    assert sent.keys() == {f"passage: {note.text}" for note in dataset.notes}
    assert sum(sent.values()) - len(sent) <= 8 and n_before >= 6  # the one batch under way


@pytest.mark.slow
def test_it_works_in_all_commands(served: EmbeddingServer, data: Path, cli: Cli, tmp_path: Path) -> None:
    flags = [f"--set=retriever.base_url={served.url}", f"--set=retriever.model={MODEL}"]
    common = ["--data", str(data), "--retriever", "biencoder", *flags]
    price = "--set=retriever.price={currency: USD, prompt_per_mtok: 1000, as_of: 2026-11}"
    plan = cli("run", *common, price, "--llm", "extractive", "--dry-run")
    assert not served.bodies
    assert "90 notes" in plan.out and MODEL in plan.out and "USD" in plan.out
    assert "cost unknown" in cli("run", *common, "--llm", "extractive", "--dry-run").out
    runs = ["--runs-dir", str(tmp_path / "runs")]
    assert cli("run", *common, "--llm", "extractive", "--metrics", "retrieval", *runs).code == 0
    n_notes = sum(text.startswith("passage: ") for text in served.answered)
    out = cli("retrieve", *common, "--out", str(tmp_path / "run.trec"))
    assert out.code == 0 and (tmp_path / "run.trec").read_text().count("\n") > 12
    part = {"name": "biencoder", "model": MODEL, "base_url": served.url}
    hybrid = cli("run", "--data", str(data), "--retriever", "hybrid", f"--set=retriever.of=[bm25, {json.dumps(part)}]",
                 "--llm", "extractive", "--metrics", "retrieval", *runs)  # fmt: skip
    assert hybrid.code == 0
    assert sum(text.startswith("passage: ") for text in served.answered) == n_notes  # by the same index
    again = cli("run", *common, "--top-k", "3", "--llm", "extractive", "--dry-run")
    assert "encode 12 queries" in again.out and "note" not in again.out.splitlines()[0]
    found = cli("doctor", *common)
    assert f"model {MODEL} at {served.url} makes vectors of {DIMENSION} dimensions" in " ".join(found.out.split())
    gone = cli(
        "doctor", "--data", str(data), "--retriever", "biencoder", "--set=retriever.base_url=http://127.0.0.1:9/v1"
    )
    assert "no server answers at http://127.0.0.1:9/v1" in " ".join(gone.out.split())


def test_langchain_searches_the_served_index(served: EmbeddingServer, dataset: Dataset) -> None:
    pytest.importorskip("langchain_core")
    documents = retriever(served).as_langchain(dataset.notes, k=3).invoke(dataset.notes.get([5])[0].text)
    assert documents[0].metadata["note_idx"] == 5


def test_a_slow_server_gets_smaller_batches_until_it_is_in_time(
    served: EmbeddingServer, dataset: Dataset, tmp_path: Path
) -> None:
    """A request takes its time for each text, so that a whole batch is never in time."""

    def refuse(n: int, texts: list[str]) -> None:
        time.sleep(0.1 * len(texts))

    served.refuse = refuse
    few = dataset.notes.note_idxs[:16].tolist()
    texts = [note.text for note in dataset.notes.get(few)]
    mine = retriever(served, concurrency=2, timeout_s=0.45)
    vectors = mine.embed_queries(texts)
    rows = np.array([vector(f"query: {text}") for text in texts])
    assert np.abs(vectors - rows / np.linalg.norm(rows, axis=1, keepdims=True)).max() < 1e-3
    assert {len(body["input"]) for body in served.bodies} <= {8, 7, 4, 3, 2, 1}


def test_a_server_that_never_answers_ends_the_build(served: EmbeddingServer, dataset: Dataset, tmp_path: Path) -> None:
    served.latency_s = 1.0
    with pytest.raises(QilinError, match=r"no answer within 0\.05 s"):
        retriever(served, timeout_s=0.05).write_index(dataset.notes, tmp_path / "index")


def test_an_answer_that_is_nested_too_deeply_is_one_line(
    served: EmbeddingServer, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qilin_rag.llms.retry.BASE_S", 0.0)
    served.refuse = lambda n, texts: (200, "[" * 100_000, {}) if n > 4 else None
    with pytest.raises(QilinError, match=MODEL) as caught:
        retriever(served, concurrency=1).write_index(dataset.notes, tmp_path / "index")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
