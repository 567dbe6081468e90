"""Notes encoded by image, by text, or by both: the vectors, who is found, and what of images is noticed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Question
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.data.note_images import NoteImages
from qilin_rag.models.picture_encoder import encode_pictures
from qilin_rag.pipeline.identity import run_identity
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.dense import shards as dense_shards
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.retrievers.hybrid import Hybrid
from qilin_rag.retrievers.resumable import kept_part
from tests.conftest import Cli, hear_signals, write_jsonl
from tests.retrievers import tiny_pictured as tiny

pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("faiss", reason="needs faiss-cpu")
pytest.importorskip("PIL", reason="needs Pillow")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

WITH_IMAGE = [90, 83, 76, 69, 62, 55, 48]  # in the order of the store; the others are 41, 34 and 27


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return load_dataset(str(tiny.write_pictured(tmp_path / "pictured")))


def images_of(data: Dataset, n: int = 1) -> list[list[bytes]]:
    """The images of each note, in the order of the store."""
    reader = NoteImages(data.notes)
    found = reader.of_notes(data.notes.note_idxs.tolist(), n)
    return [[image.jpeg for image in found[note_idx][0]] for note_idx in data.notes.note_idxs.tolist()]


def opened(images: list[bytes]) -> Any:
    from PIL import Image

    pictures = [Image.open(BytesIO(image)).convert("RGB") for image in images]
    return pictures[0] if len(pictures) == 1 else pictures


def theirs(folder: Path, inputs: list[Any]) -> Any:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return model.encode(inputs, normalize_embeddings=True)


def vectors_of(folder: Path) -> Any:
    return np.load(folder / "vectors.npy", allow_pickle=False).astype(np.float64)


def ours(folder: Path, images: list[list[bytes]], texts: list[str] | None) -> Any:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    named = ("tiny", [f"note {n}" for n in range(len(images))])
    return encode_pictures(model, images, texts, "", normalize=True, batch_size=2, named=named)


@pytest.mark.parametrize("kind", ["clip", "llava"])
def test_vectors_of_images_are_those_of_sentence_transformers(
    data: Dataset, kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    images = [of_note for of_note in images_of(data) if of_note]
    expected = theirs(folder, [opened(of_note) for of_note in images])
    assert np.abs(ours(folder, images, None) - expected).max() < 1e-6
    assert np.abs(expected - expected[0]).max(axis=1)[1:6].min() > 1e-3


def test_a_vision_language_model_reads_images_and_text_as_one_input(data: Dataset, llava: Path) -> None:
    images = [of_note for of_note in images_of(data, n=3) if of_note]
    texts = ["冷萃" * (n + 1) for n in range(len(images))]
    assert [len(of_note) for of_note in images] == [1, 2, 1, 1, 1, 1, 1]
    inputs = [{"image": opened(of_note), "text": text} for of_note, text in zip(images, texts, strict=True)]
    expected = np.concatenate([theirs(llava, [one]) for one in inputs])
    assert np.abs(ours(llava, images, texts) - expected).max() < 1e-5
    assert np.abs(ours(llava, images, None) - expected).max() > 1e-3


def test_a_model_that_reads_each_alone_gives_the_mean(data: Dataset, clip: Path) -> None:
    images = [of_note for of_note in images_of(data, n=2) if of_note]
    texts = ["冷萃" * (n + 1) for n in range(len(images))]

    def unit(vectors: Any) -> Any:
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    of_images = [unit(np.mean([theirs(clip, [opened([image])])[0] for image in each], axis=0)) for each in images]
    assert np.abs(ours(clip, images, None) - of_images).max() < 1e-6
    expected = unit((np.array(of_images) + theirs(clip, texts)) / 2)
    assert np.abs(ours(clip, images, texts) - expected).max() < 1e-6


def test_with_image_the_search_is_exact_and_a_note_without_one_is_never_found(
    data: Dataset, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_shards, "SHARD_PICTURED", 4)  # the last shard has no image at all
    caplog.set_level(logging.INFO, "qilin_rag")
    retriever = BiEncoder(model=str(clip), note_input="image", index=tmp_path / "index")
    retriever.model_copy(update={"index": None}).write_index(data.notes, tmp_path / "index")
    questions = [Question(id=str(n), query=query, references=["x"]) for n, query in enumerate(["冷萃咖啡", "多肉", ""])]
    rankings = retriever.search(questions, data.notes, 20)
    said = "images: 7 of 10 notes have one that can be read (left out: 1 damaged, 1 missing, 1 none named)"
    assert f"{said}; the other 3 can't be found" in caplog.text
    vectors = vectors_of(tmp_path / "index")
    expected = theirs(clip, [opened(of_note) for of_note in images_of(data) if of_note])
    assert vectors.shape == expected.shape and np.abs(vectors - expected).max() < 1e-3
    assert (vectors[0] == vectors[6]).all()  # the same image
    queries = retriever.embed_queries([question.query for question in questions])
    for hits, row in zip(rankings, queries.astype(np.float64) @ vectors.T, strict=True):
        score = dict(zip(WITH_IMAGE, row, strict=True))
        assert sorted(hit.note_idx for hit in hits) == sorted(WITH_IMAGE)
        assert [hit.score for hit in hits] == pytest.approx(sorted(row, reverse=True), abs=1e-6)
        assert [score[hit.note_idx] for hit in hits] == pytest.approx([hit.score for hit in hits], abs=1e-6)


@pytest.mark.parametrize("kind", ["clip", "llava"])
def test_with_both_a_note_without_image_is_found_by_its_text(
    data: Dataset, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    BiEncoder(model=str(folder), note_input="both", images=2).write_index(data.notes, tmp_path / "index")
    vectors = vectors_of(tmp_path / "index")
    texts = [note.text for note in data.notes]
    of_texts = theirs(folder, texts)
    assert len(vectors) == 10
    assert np.abs(vectors[7:] - of_texts[7:]).max() < 1e-3
    assert np.abs(vectors[:7] - of_texts[:7]).max(axis=1).min() > 1e-2
    assert np.abs(vectors[0] - vectors[6]).max() > 1e-3  # the same image, another text
    whole = ours(folder, images_of(data, 2)[:7], texts[:7])
    assert np.abs(vectors[:7] - whole).max() < 1e-3


def test_colours_are_found_by_the_picture_and_not_by_the_text(tmp_path: Path) -> None:
    """A model that knows colours by construction; the cards' text says nothing, so that BM25 finds none."""
    model = str(tiny.write_colour_clip(tmp_path / "colours"))
    cards = load_dataset(str(tiny.write_cards(tmp_path / "cards")))

    def recall(retriever: Any) -> float:
        rankings = retriever.search(cards.questions, cards.notes, 5)
        shares = [
            len({hit.note_idx for hit in hits} & set(question.reference_notes)) / 5
            for question, hits in zip(cards.questions, rankings, strict=True)
        ]
        return float(np.mean(shares))

    seeing = BiEncoder(model=model, note_input="image")
    assert recall(seeing) == 1
    assert recall(BiEncoder(model=model, note_input="image", faiss="ivf", n_probe=1)) == 1
    assert recall(BiEncoder(model=model, note_input="both")) == 1
    assert recall(BiEncoder(model=model, normalize=False)) < 0.4  # chance is 1 of 8
    assert recall(BM25(analyzer="char")) == 0
    assert recall(Hybrid(of=[BM25(analyzer="char"), seeing])) == 1


def test_a_build_that_was_stopped_encodes_no_image_again(
    data: Dataset, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_shards, "SHARD_PICTURED", 3)
    retriever = BiEncoder(model=str(clip), note_input="both", device="cpu")
    retriever.write_index(data.notes, tmp_path / "whole")

    def stop(folder: Path, name: str, write: Any) -> None:
        if name == "vectors-00002.npy":
            raise KeyboardInterrupt
        kept_part(folder, name, write)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dense_shards, "kept_part", stop)
        retriever.write_index(data.notes, tmp_path / "stopped")
    encoded: list[str] = []
    encode = BiEncoder._encode_notes

    def watched(self: BiEncoder, texts: Any, names: Any, images: Any, precision: Any) -> Any:
        encoded.extend(names)
        return encode(self, texts, names, images, precision)

    monkeypatch.setattr(BiEncoder, "_encode_notes", watched)
    retriever.write_index(data.notes, tmp_path / "stopped")
    assert encoded == [f"note {note_idx}" for note_idx in data.notes.note_idxs[6:].tolist()]
    for name in ("vectors.npy", "images.npy", "images.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(list((tmp_path / "stopped").iterdir())) == 4


BUILD = """
import sys
from pathlib import Path
from qilin_rag.data import load_dataset
from qilin_rag.retrievers.dense import shards as dense_shards
from qilin_rag.retrievers.dense.retriever import BiEncoder
model, data, out = sys.argv[1:]
dense_shards.SHARD_PICTURED = 3
keep = dense_shards.kept_part
def keep_and_stop(folder, name, write):
    if len(list(folder.glob("vectors-*.npy.sha256"))) == 2:
        print("stopped", flush=True)
        sys.stdin.read()
    return keep(folder, name, write)
dense_shards.kept_part = keep_and_stop
retriever = BiEncoder(model=model, note_input="image", precision="fp32")
retriever.write_index(load_dataset(data).notes, Path(out))
"""


@pytest.mark.slow
def test_killed_or_on_two_devices_the_bytes_are_the_same(
    data: Dataset, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_shards, "SHARD_PICTURED", 3)

    def build(out: str, device: str = "cpu") -> None:
        retriever = BiEncoder(model=str(clip), note_input="image", device=device, precision="fp32")
        retriever.write_index(data.notes, tmp_path / out)

    killed = subprocess.Popen(
        [sys.executable, "-c", BUILD, *map(str, (clip, tmp_path / "pictured", tmp_path / "killed"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "stopped\n", killed.communicate()[1]
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert len(list((tmp_path / ".killed-building").glob("vectors-*.npy"))) == 2
    build("killed")
    build("whole")
    build("two", "cpu,cpu")
    for name in ("vectors.npy", "images.npy", "images.json"):
        assert len({(tmp_path / out / name).read_bytes() for out in ("killed", "two", "whole")}) == 1


RAY_BUILD = """
import sys
from pathlib import Path
from qilin_rag.data import load_dataset
from qilin_rag.retrievers.dense import shards
from qilin_rag.retrievers.dense.retriever import BiEncoder
model, data, out = sys.argv[1:]
shards.SHARD_PICTURED = 7
retriever = BiEncoder(model=model, note_input="image", engine="ray", precision="fp32")
retriever.write_index(load_dataset(data).notes, Path(out))
"""


@pytest.mark.slow
def test_the_workers_of_ray_are_sent_the_images(
    data: Dataset, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of the shards has no note with an image. Ray takes this process's handlers of fatal signals away."""
    pytest.importorskip("ray", reason="needs ray (make test-all installs it)")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(dense_shards, "SHARD_PICTURED", 7)
    BiEncoder(model=str(clip), note_input="image", precision="fp32").write_index(data.notes, tmp_path / "local")
    words = [sys.executable, "-c", RAY_BUILD, *map(str, (clip, tmp_path / "pictured", tmp_path / "ray"))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, preexec_fn=hear_signals)
    assert done.returncode == 0, done.stderr
    for name in ("vectors.npy", "images.npy", "images.json"):
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


def test_images_that_changed_since_are_noticed(
    data: Dataset, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Other content, an image that was missing and is there now, another path; but not one that is gone."""

    def search(**settings: Any) -> Any:
        notes = load_dataset(str(tmp_path / "pictured")).notes
        retriever = BiEncoder(model=str(clip), note_input="image", **settings)
        return {hit.note_idx: hit.score for hits in retriever.search(data.questions, notes, 20) for hit in hits}

    BiEncoder(model=str(clip), note_input="image").write_index(data.notes, tmp_path / "index")
    before = search()
    assert search(index=tmp_path / "index") == before
    images = tmp_path / "pictured" / "image"
    (images / "3.png").rename(images / "elsewhere.png")
    assert search(index=tmp_path / "index") == before == search()
    assert "out of date" not in caplog.text
    tiny.draw(images / "3.png", 300)
    tiny.draw(images / "gone.png", 301)
    with pytest.raises(UsageError, match=r"out of date \(images have changed: those of 2 of the 10 notes looked at\)"):
        search(index=tmp_path / "index")
    after = search()
    assert "out of date" in caplog.text and "building it again" in caplog.text
    assert after.keys() - before.keys() == {34}
    assert {note_idx for note_idx in before if before[note_idx] != after[note_idx]} == {69}
    rows = [json.loads(line) for line in (tmp_path / "pictured" / "notes.jsonl").read_text().splitlines()]
    rows[9]["image_path"] = ["image/5.png"]
    write_jsonl(tmp_path / "pictured" / "notes.jsonl", rows)
    with pytest.raises(UsageError, match="made for other image paths"):
        search(index=tmp_path / "index")
    assert 27 in search()


def test_other_image_paths_are_another_run_if_the_retriever_reads_images(data: Dataset, clip: Path) -> None:
    folder = Path("pictured")

    def identities(*retrievers: Any) -> list[dict[str, Any]]:
        now = load_dataset(str(folder))
        return [
            run_identity(resolve_run({"data": str(folder), "retriever": retriever}), now) for retriever in retrievers
        ]

    seeing = {"name": "biencoder", "model": str(clip), "note_input": "image"}
    retrievers = [seeing, {"name": "hybrid", "of": ["bm25", seeing]}, "bm25"]
    before = identities(*retrievers)
    rows = [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]
    rows[0]["image_path"] = ["image/5.png"]
    write_jsonl(folder / "notes.jsonl", rows)
    assert [one == other for one, other in zip(before, identities(*retrievers), strict=True)] == [False, False, True]
    assert "image_paths" not in before[2]


def test_without_any_image_the_build_says_so_and_the_next_one_looks_again(
    data: Dataset, clip: Path, tmp_path: Path
) -> None:
    images = tmp_path / "pictured" / "image"
    images.rename(tmp_path / "away")
    retriever = BiEncoder(model=str(clip), note_input="image")
    with pytest.raises(UsageError, match=r"no note has an image that can be read .*'missing': 9.*note_input to text"):
        retriever.write_index(data.notes, tmp_path / "index")
    (tmp_path / "away").rename(images)
    retriever.write_index(data.notes, tmp_path / "index")
    assert len(vectors_of(tmp_path / "index")) == 7


def test_what_takes_no_images_is_refused_before_anything_is_encoded(
    data: Dataset, clip: Path, data_dir: Path, made_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qilin_rag.retrievers.dense.retriever.write_vectors", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(UsageError, match=r"takes no images.*name one that does .*or set note_input to text"):
        BiEncoder(model=str(made_model), note_input="image").identity()
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in made_model.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (copied / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UsageError, match="takes no images"):
        BiEncoder(model=str(copied), note_input="both").write_index(data.notes, tmp_path / "index")
    with pytest.raises(UsageError, match="notes of this data have no image_path; set note_input to text"):
        BiEncoder(model=str(clip), note_input="both").write_index(load_dataset(str(data_dir)).notes, tmp_path / "index")
    for setting in ("images", "image_size"):
        with pytest.raises(ValidationError, match=f"{setting} is a setting of note_input image or both"):
            BiEncoder(model=str(clip), **{setting: 64})


def test_the_identity_has_the_input_only_if_it_is_not_text(clip: Path) -> None:
    names = {"note_input", "images", "image_size"}
    text = BiEncoder(model=str(clip)).identity()
    assert not names & text.keys()
    of_image = BiEncoder(model=str(clip), note_input="image").identity()
    assert {name: of_image[name] for name in names} == {"note_input": "image", "images": 1, "image_size": 1024}
    given: list[dict[str, Any]] = [{"note_input": "both"}, {"images": 2}, {"image_size": 512}]
    several = [BiEncoder(**{"model": str(clip), "note_input": "image"} | more).index_identity() for more in given]
    assert len({json.dumps(each, sort_keys=True) for each in several}) == 3


def test_a_smaller_image_size_is_what_the_model_sees(clip: Path, tmp_path: Path) -> None:
    folder = tiny.write_pictured(tmp_path / "pictured")
    for n in range(7):
        tiny.draw(folder / "image" / f"{n}.png", n, (400, 300))
    data = load_dataset(str(folder))
    BiEncoder(model=str(clip), note_input="image", image_size=28).write_index(data.notes, tmp_path / "index")
    reader = NoteImages(data.notes, longest_side=28)
    small = [opened([reader.of_notes([note_idx], 1)[note_idx][0][0].jpeg]) for note_idx in WITH_IMAGE]
    assert {max(image.size) for image in small} == {28}
    assert np.abs(vectors_of(tmp_path / "index") - theirs(clip, small)).max() < 1e-3


@pytest.mark.parametrize("kind", ["clip", "llava"])
def test_a_text_is_a_text_even_if_it_names_a_file_or_an_image(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """sentence-transformers would read the file; the processor would look for the image of the placeholder."""
    folder = request.getfixturevalue(kind)
    path = tmp_path / tiny.draw(tmp_path / "image" / "0.png", 0)
    texts = [str(path), "https://127.0.0.1:1/a.png", f"冷{tiny.IMAGE}萃", "冷"]
    vectors = BiEncoder(model=str(folder)).embed_queries(texts)
    plain = ["https://127.0.0.1:1/a.png", "冷"]
    expected = theirs(folder, [{"text": text} for text in plain])
    assert np.abs(vectors[[1, 3]] - expected).max() < 1e-5
    assert np.abs(vectors[0] - theirs(folder, [opened([path.read_bytes()])])[0]).max() > 1e-3
    assert np.isfinite(vectors).all()


def test_the_doctor_looks_at_the_model_and_the_images(
    data: Dataset, clip: Path, made_model: Path, tmp_path: Path, cli: Cli
) -> None:
    def examine(model: Path) -> dict[str, str]:
        words = ("--set", f"retriever.model={model}", "--set", "retriever.note_input=image")
        done = cli("doctor", "--data", "pictured", "--retriever", "biencoder", *words, "--json")
        [found] = [each for each in json.loads(done.out) if each["subject"] == "note_input image"]
        return dict(found)

    found = examine(clip)
    assert (found["state"], found["detail"]) == ("ok", "7 of the first 10 notes have an image that can be read")
    found = examine(made_model)
    assert found["state"] == "failed" and "takes no images" in found["detail"] and "note_input" in found["advice"]
    (tmp_path / "pictured" / "image").rename(tmp_path / "away")
    found = examine(clip)
    assert found["state"] == "failed" and "9 missing" in found["detail"] and "image_path" in found["advice"]


@pytest.mark.slow
def test_the_command_line_builds_plans_and_runs(data: Dataset, clip: Path, made_model: Path, cli: Cli) -> None:
    settings = [f"retriever.model={clip}", "retriever.note_input=image"]
    words = [word for setting in settings for word in ("--set", setting)]
    run = ("run", "--data", "pictured", "--retriever", "biencoder", *words, "--llm", "extractive")
    planned = cli(*run, "--dry-run")
    assert planned.code == 0 and "encode 10 notes by BiEncoder" in planned.out + planned.err
    built = cli("index", "biencoder", "--data", "pictured", *words, "--out", "index")
    assert built.code == 0 and built.err.count("the other 3 can't be found") == 1
    done = cli(*run, "--set", "retriever.index=index")
    assert done.code == 0 and "note_input=image" in done.out
    assert cli("retrieve", "--data", "pictured", "--retriever", "biencoder", *words, "--out", "a.trec").code == 0
    found = [line.split()[2] for line in Path("a.trec").read_text().splitlines()]
    assert sorted(map(int, found)) == sorted(WITH_IMAGE)[-len(found) :] or set(map(int, found)) <= set(WITH_IMAGE)
    listed = cli("list", "retrievers", "biencoder")
    assert all(name in listed.out for name in ("note_input", "image_size"))
    refused = cli(*run, "--set", f"retriever.model={made_model}")
    assert refused.code == 2 and "takes no images" in refused.err and len(refused.err.splitlines()) == 1


def test_a_langchain_retriever_finds_by_image(data: Dataset, clip: Path) -> None:
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    retriever = BiEncoder(model=str(clip), note_input="image")
    documents = retriever.as_langchain(data.notes, k=3).invoke("冷萃")
    [hits] = retriever.search([Question(id="1", query="冷萃", references=["x"])], data.notes, 3)
    assert [document.metadata["note_idx"] for document in documents] == [hit.note_idx for hit in hits]
