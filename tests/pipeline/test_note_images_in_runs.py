"""Images of notes in the prompts of a run: what the server sees, what is written down, and what is refused."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import random
import re
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import qilin_rag as qr
from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import LeftOut
from qilin_rag.data.note_images import THREADS, NoteImages
from qilin_rag.data.notes import open_notes_of
from qilin_rag.data.source import open_source
from qilin_rag.llms.image_tokens import most_tokens
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from tests.conftest import NOTES, Cli, launch, wait_until, write_jsonl
from tests.fake_server import MODEL, FakeServer
from tests.pictured import IMAGES, Pillow, answer, images_of, parts_of, text_of, write_pictured

RANKING = {"1": [10, 11, 12], "2": [13, 12, 10], "3": [11, 14, 13, 12]}
PROMPTS = ["default", "cite", "english", "no-system"]
MODEL_SET = f"llm.model={MODEL}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = write_pictured(tmp_path / "pictured")
    lines = [
        f"{qid} Q0 {note} {rank} {10 - rank} x\n"
        for qid, notes in RANKING.items()
        for rank, note in enumerate(notes, 1)
    ]
    (folder / "ranking.trec").write_text("".join(lines))
    return folder


@pytest.fixture
def pictures(server: FakeServer) -> FakeServer:
    server.answer = answer
    return server


def config_of(data: Path, server: FakeServer, *overrides: str, **flags: Any) -> RunConfig:
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "retriever": f"trec:{data / 'ranking.trec'}"}
    return resolve_run({**given, "metrics": "rouge_l", "note_images": 2, **flags}, [MODEL_SET, *overrides])


def ask(data: Path, server: FakeServer, *overrides: str, **flags: Any) -> Run:
    server.calls.clear()
    return run(config_of(data, server, *overrides, **flags))


def jpegs(data: Path, n: int, size: int = 1024) -> dict[int, list[bytes]]:
    """Return the images of each note as they are sent."""
    images = NoteImages(open_notes_of(open_source(str(data), ["notes"])), size)
    return {note_idx: [image.jpeg for image in images.of_notes([note_idx], n)[note_idx][0]] for note_idx in IMAGES}


@pytest.mark.parametrize("order", ["best_first", "best_last"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_each_image_stands_behind_the_text_of_its_note(
    data: Path, pictures: FakeServer, prompt: str, order: str
) -> None:
    plain = ask(data, pictures, f"note_order={order}", prompt=prompt, note_images=0)
    messages = {body["messages"][-1]["content"]: body["messages"] for body in pictures.calls}
    done = ask(data, pictures, f"note_order={order}", prompt=prompt)
    assert plain.path != done.path
    expected, content = jpegs(data, 2), {int(str(note["note_idx"])): str(note["content"]) for note in NOTES}
    samples, _ = done.directory.read_samples()
    assert len(pictures.calls) == 3
    for body in pictures.calls:
        assert body["messages"][:-1] == messages[text_of(body)][:-1]  # each text is what it is without images
        [sample] = [each for each in samples.values() if each.messages[-1]["content"] == text_of(body)]
        notes = RANKING[sample.question_id]
        notes = notes if order == "best_first" else notes[::-1]
        shown: list[Any] = []
        for part in parts_of(body):
            if isinstance(part, bytes):
                shown.append(part)
            else:
                at = {note: part.find(content[note]) for note in notes}
                shown += sorted((note for note in notes if at[note] >= 0), key=at.__getitem__)
        for before, part in pairwise(parts_of(body)):
            if isinstance(part, bytes) and isinstance(before, str):
                assert before.endswith(tuple(content[note] for note in notes))
        assert shown == [item for note in notes for item in (note, *expected[note])]
        assert "" not in parts_of(body)
        sent = [(note, hashlib.sha256(jpeg).hexdigest()) for note in notes for jpeg in expected[note]]
        assert [(image.note_idx, image.sha256) for image in sample.images] == sent
        assert sample.images_left_out == ({"missing": 1} if 13 in notes else {})
    assert done.summary.left_out == LeftOut(images={"missing": 2})


def test_nothing_is_written_but_names_and_hashes(data: Path, pictures: FakeServer) -> None:
    done = ask(data, pictures, note_images=1, image_size=500)
    sent = images_of(pictures.calls)
    assert len(sent) == 5
    assert max(max(Pillow.open(io.BytesIO(jpeg)).size) for jpeg in sent) == 500
    for path in (*done.path.rglob("*"), *Path("cache").rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(jpeg[100:160] in content or base64.b64encode(jpeg)[100:160] in content for jpeg in sent), path
    line = json.loads((done.path / "samples.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(line["images"][0]) == {"note_idx", "path", "sha256"}


def test_an_image_that_a_refusal_repeats_is_not_written(data: Path, pictures: FakeServer) -> None:
    def echo(n: int, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        sent = next(part for part in body["messages"][-1]["content"] if part["type"] == "image_url")
        url = sent["image_url"]["url"]
        return 400, {"error": {"message": f"can't read {url}, nor {url.partition(',')[2]}: too dark"}}, {}

    pictures.refuse = echo
    done = ask(data, pictures, note_images=1, fail_on_error=9, cache=False)
    sent = [base64.b64encode(jpeg).decode() for jpeg in images_of(pictures.calls)]
    text = (done.path / "samples.jsonl").read_text(encoding="utf-8")
    assert len(sent) == 5
    assert "can't read …, nor …: too dark" in text
    assert not any(jpeg[place : place + 20] in text for jpeg in sent for place in (0, 40, len(jpeg) // 2, -30))


def test_without_images_nothing_is_as_if_there_were_some(data: Path, pictures: FakeServer) -> None:
    done = ask(data, pictures, note_images=0)
    assert not {"note_images", "image_size"} & done.manifest.identity.keys()
    assert b"images" not in (done.path / "samples.jsonl").read_bytes()
    assert "images" not in json.loads((done.path / "summary.json").read_text())["left_out"]
    assert all(isinstance(body["messages"][-1]["content"], str) for body in pictures.calls)
    assert ask(data, pictures, note_images=0, image_size=300).path == done.path
    assert len({ask(data, pictures, note_images=n, image_size=size).path for n in (1, 2) for size in (300, 400)}) == 4
    none = ask(data, pictures, retriever="none", note_images=2)  # no notes, no images
    assert not images_of(pictures.calls)
    assert none.path == ask(data, pictures, retriever="none", note_images=0).path


def test_answers_come_from_the_cache_as_long_as_the_images_are_the_same(data: Path, pictures: FakeServer) -> None:
    ask(data, pictures, runs_dir="first")
    again = ask(data, pictures, runs_dir="second")
    assert (len(pictures.calls), again.summary.cached) == (0, 3)
    assert all(sample.images for sample in again.directory.read_samples()[1])
    Pillow.new("RGB", (60, 40), "white").save(data / "image/c.png")  # of note 11, which questions 1 and 3 get
    changed = ask(data, pictures, runs_dir="third")
    assert (len(pictures.calls), changed.summary.cached) == (2, 1)


def test_a_run_is_not_continued_with_other_images(data: Path, pictures: FakeServer) -> None:
    pictures.fault = lambda n, body: "400" if n == 3 else None
    done = ask(data, pictures, concurrency=1, cache=False)
    assert done.summary.counts["failed"] == 1
    before = (data / "image/a.png").read_bytes()
    Pillow.new("RGB", (60, 40), "white").save(data / "image/a.png")
    with pytest.raises(UsageError, match=r"image/a\.png has changed since question .*--fresh"):
        ask(data, pictures, concurrency=1, cache=False)
    assert pictures.calls == []
    (data / "image/a.png").write_bytes(before)
    pictures.fault = lambda n, body: None
    assert ask(data, pictures, cache=False).summary.counts["ok"] == 3
    Pillow.new("RGB", (60, 40), "white").save(data / "image/a.png")
    assert ask(data, pictures, cache=False).summary.counts["ok"] == 3  # nothing is left to ask
    assert (len(pictures.calls), ask(data, pictures, fresh=True).summary.counts["ok"]) == (0, 3)
    (data / "image").rename(data / "moved")
    assert (ask(data, pictures).summary.counts["ok"], plan(config_of(data, pictures)).calls) == (3, 0)
    with pytest.raises(UsageError, match="images of the notes are missing"):
        ask(data, pictures, fresh=True)
    assert pictures.calls == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"llm": "extractive", "base_url": None}, "llm extractive reads no images"),
        ({"llm": "qwen2.5-7b"}, "llm qwen2.5-7b reads no images.*llm.images=true"),
        ({"llm": "gguf:model.gguf", "base_url": None}, "llm model needs llm.engine.mmproj to read images"),
        ({"data": "plain"}, "'plain' have no column image_path"),
        ({"data": "unnamed"}, "no note of the data names an image"),
        ({"data": "unfetched"}, "images of the notes are missing; looked for 4 of them, such as .*unfetched/image/"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_asked(
    data: Path, pictures: FakeServer, flags: dict[str, Any], said: str
) -> None:
    for name in ("plain", "unnamed", "unfetched"):
        Path(name).mkdir()
        (Path(name) / "dqa.jsonl").write_bytes((data / "dqa.jsonl").read_bytes())
        Path(name, "notes.jsonl").write_bytes((data / "notes.jsonl").read_bytes())
    write_jsonl(Path("plain/notes.jsonl"), NOTES)
    write_jsonl(Path("unnamed/notes.jsonl"), [{**note, "image_path": []} for note in NOTES])
    given = {"data": str(data), "llm": "openai", "base_url": pictures.url, "note_images": 1, **flags}
    overrides = [MODEL_SET] if given["llm"] == "openai" else []
    for what in (run, plan):
        with pytest.raises(UsageError, match=said) as refused:
            what(resolve_run(given, overrides))
        assert "\n" not in str(refused.value)
    assert pictures.calls == []
    assert not Path("runs").exists()


def test_without_pillow_the_line_says_what_to_install(
    data: Path, pictures: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"note_images .*needs PIL, not installed here: pip install 'qilin-rag"):
        ask(data, pictures)


def test_a_model_that_reads_no_images_ends_the_run_at_once(data: Path, pictures: FakeServer, cli: Cli) -> None:
    error = {"message": "this model does not support image input (ref: b8bd630e)", "type": "invalid_request_error"}
    pictures.refuse = lambda n, body: (400, {"error": error}, {})
    llm = ["--llm", "openai", "--base-url", pictures.url, "--set", MODEL_SET, "--set", "llm.max_tries=3"]
    failed = cli("run", "--data", data, *llm, "--note-images", 1, "--concurrency", 1, "--quiet")
    assert (failed.code, failed.err.count("\n"), len(pictures.calls)) == (1, 1, 1), failed.err
    assert "reads no images" in failed.err and "--note-images 0" in failed.err


def test_whole_notes_leave_with_their_images_if_the_prompt_is_too_long(data: Path, pictures: FakeServer) -> None:
    image_set = "llm.image_tokens=qwen2-vl"
    free = ask(data, pictures, image_set, note_images=1)
    assert free.summary.left_out.too_long == 0
    # The image of note 11 is sent at 1024 x 512 and takes 37 * 18 + 2 tokens.
    tight = ask(data, pictures, image_set, "llm.context_length=1000", "llm.max_tokens=200", note_images=1)
    samples = tight.directory.read_samples()[0]
    assert [samples[question_id].prompt_notes for question_id in "123"] == [[10, 12], [13, 12, 10], [14, 13, 12]]
    assert [len(samples[question_id].images) for question_id in "123"] == [1, 1, 1]
    assert tight.summary.left_out.too_long == 2
    assert tight.summary.left_out.images == {"missing": 2}


def test_a_server_that_finds_the_prompt_too_long_gets_fewer_notes_and_images(data: Path, pictures: FakeServer) -> None:
    pictures.fault = lambda n, body: "overflow" if len(images_of([body])) > 2 else None
    done = ask(data, pictures, concurrency=1)
    samples = done.directory.read_samples()[0]
    assert [len(samples[question_id].images) for question_id in "123"] == [2, 1, 2]
    assert [samples[question_id].prompt_notes for question_id in "123"] == [[10], [13, 12], [11, 14]]


PRICE = "llm.price={currency: USD, prompt_per_mtok: 10, completion_per_mtok: 20, as_of: 2026-11}"


def test_the_plan_counts_images_by_the_rule_of_the_model(data: Path, pictures: FakeServer) -> None:
    plain = plan(config_of(data, pictures, PRICE, note_images=0))
    assert plain.prompt_tokens is not None and plain.cost_to.amount is not None
    planned = plan(config_of(data, pictures, PRICE, "llm.image_tokens=openai-tiles"))
    n_images = sum(len(IMAGES[note]) for notes in RANKING.values() for note in notes)
    assert (planned.images, sum(call.images for call in planned.examples)) == (n_images, n_images)
    assert planned.prompt_tokens == plain.prompt_tokens + n_images * 765
    assert planned.cost_to.amount == pytest.approx(plain.cost_to.amount + n_images * 765 * 10 / 1e6)
    assert (planned.cache_unknown, planned.cached) == ("a plan reads no images, which are a part of the request", 0)
    assert plan(config_of(data, pictures, PRICE, "llm.image_tokens=qwen2-vl", image_size=280)).prompt_tokens == (
        plain.prompt_tokens + n_images * most_tokens("qwen2-vl", 280)
    )
    assert pictures.calls == []


def test_the_plan_says_what_it_can_not_know(data: Path, pictures: FakeServer, cli: Cli) -> None:
    plain = plan(config_of(data, pictures, PRICE, note_images=0))
    unknown = plan(config_of(data, pictures, PRICE))
    assert (unknown.calls, unknown.prompt_tokens, unknown.text_tokens) == (3, None, plain.prompt_tokens)
    assert unknown.cost_to.amount is None and "llm.image_tokens" in str(unknown.cost_to.unknown)
    llm = ["--llm", "openai", "--base-url", pictures.url, "--set", MODEL_SET, "--set", PRICE]
    ranking = ["--retriever", f"trec:{data / 'ranking.trec'}"]
    shown = cli("run", "--data", data, *llm, *ranking, "--note-images", 1, "--dry-run")
    assert shown.code == 0, shown.err
    lines = " ".join(shown.out.split())
    assert "3 calls for 3 questions" in lines and "at most 7 images" in lines
    assert "of images unknown (how fake-model counts images is not known" in lines
    assert "cost: unknown (how fake-model counts images" in lines


def test_images_are_a_factor(data: Path, pictures: FakeServer, cli: Cli) -> None:
    path = Path("configs/llms/mine.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(f"class: openai\nmodel: {MODEL}\nbase_url: {pictures.url}\n")
    command = ["ablate", "--data", data, "--llms", "mine", "--retrievers", "none,bm25", "--note-images", "0,1,3"]
    planned = cli(*command, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert [each["images"] for each in json.loads(planned.out)][:2] == [0, 0]
    made = cli(*command, "--json")
    assert made.code == 0, made.err
    [report] = json.loads(made.out)
    [factor] = report["factors"]
    assert (factor["factor"], factor["default"]) == ("note_images", "0")
    levels = {system["retriever"]: [level["level"] for level in system["levels"]] for system in factor["systems"]}
    assert levels == {"bm25": ["0", "1", "3"]}
    assert len(list(Path("runs").glob("*/manifest.json"))) == 4  # none is the same run at every level
    assert cli("ablate", "--note-images", "0,1,3", "--saved", "--json").out == made.out
    assert "1 image a note" in cli("leaderboard").out
    rows = list(csv.DictReader(io.StringIO(cli("leaderboard", "--format", "csv").out)))
    assert {row["note_images"] for row in rows if row["retriever"] == "bm25"} == {"", "1", "3"}
    manifests = {path.parent: path.read_text() for path in Path("runs").glob("*/manifest.json")}
    [with_images] = [run_path for run_path, text in manifests.items() if '"note_images": 3' in text]
    assert "note_images 3, image_size 1024" in " ".join(cli("show", with_images).out.split())


def test_images_left_out_are_counted_on_the_last_lines(data: Path, pictures: FakeServer, cli: Cli) -> None:
    (data / "image/a.png").write_bytes(b"not an image")
    llm = ["--llm", "openai", "--base-url", pictures.url, "--set", MODEL_SET]
    shown = cli("run", "--data", data, *llm, "--retriever", f"trec:{data / 'ranking.trec'}", "--note-images", 2)
    assert shown.code == 0, shown.err
    left_out = "3 images left out (damaged), 2 images left out (missing)"
    assert left_out in " ".join(shown.out.split())
    [run_path] = Path("runs").iterdir()
    assert left_out in " ".join(cli("show", run_path).out.split())
    asked = cli("show", run_path, "--question", "2").out
    assert re.search(r"^  note 13  image/d\.png  sha256 [0-9a-f]{12}$", asked, re.MULTILINE)
    assert "1 images left out (damaged), 1 images left out (missing)" in asked


def test_from_python(data: Path, pictures: FakeServer) -> None:
    llm = qr.OpenAICompatible(model=MODEL, base_url=pictures.url)
    done = qr.run(data=data, llm=llm, metrics="rouge_l", note_images=1, image_size=64, limit=1)
    [sample] = done.directory.read_samples()[1]
    assert sample.images and len(images_of(pictures.calls)) == len(sample.images)


def test_images_are_read_when_their_question_has_its_turn(
    data: Path, pictures: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [
        {"search_idx": i, "query": f"问题{i}", "answers": ["答"], "ref_note_idx_list": [10]} for i in range(12)
    ]
    write_jsonl(data / "dqa.jsonl", questions)
    asked_before, read = [], NoteImages.of_notes

    def watched(images: NoteImages, note_idxs: Any, n: int) -> Any:
        asked_before.append(len(pictures.calls))
        return read(images, note_idxs, n)

    monkeypatch.setattr(NoteImages, "of_notes", watched)
    assert ask(data, pictures, retriever="oracle", concurrency=2, cache=False).summary.counts["ok"] == 12
    assert len(asked_before) == 12
    assert all(n_asked >= i - 2 for i, n_asked in enumerate(asked_before))


def test_images_of_several_questions_are_read_at_once_but_not_of_all(
    data: Path, pictures: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [
        {"search_idx": i, "query": f"问题{i}", "answers": ["答"], "ref_note_idx_list": [10]} for i in range(3 * THREADS)
    ]
    write_jsonl(data / "dqa.jsonl", questions)
    read, lock, together = NoteImages.of_notes, threading.Lock(), threading.Barrier(2)
    now = most = 0

    def watched(images: NoteImages, note_idxs: Any, n: int) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(20)  # for another thread that reads
        found = read(images, note_idxs, n)
        with lock:
            now -= 1
        return found

    monkeypatch.setattr(NoteImages, "of_notes", watched)
    done = ask(data, pictures, retriever="oracle", concurrency=3 * THREADS, cache=False)
    assert done.summary.counts["ok"] == 3 * THREADS
    assert 2 <= most <= THREADS


@pytest.mark.slow
def test_a_killed_run_sends_no_image_twice(data: Path, pictures: FakeServer, cli: Cli) -> None:
    questions = [
        {"search_idx": i, "query": f"问题{i}怎么办", "answers": ["92度。"], "ref_note_idx_list": [10 + i % 5]}
        for i in range(24)
    ]
    write_jsonl(data / "dqa.jsonl", questions)
    command = ["run", "--data", data, "--llm", "openai", "--base-url", pictures.url, "--set", MODEL_SET]
    command += ["--note-images", 2, "--retriever", "oracle", "--concurrency", 2, "--no-cache", "--json"]
    undisturbed = cli(*command, "--runs-dir", "whole")
    assert undisturbed.code == 0, undisturbed.err
    pictures.calls.clear()
    pictures.latency_s = 0.02
    dice = random.Random(3)
    for n_replies in (4, 10, 16):
        process = launch(*command)
        wait_until(lambda n=n_replies: len(pictures.calls) > n, process)  # type: ignore[misc]
        time.sleep(dice.uniform(0, 0.03))
        process.kill()
        process.communicate()
        time.sleep(0.1)
        [path] = Path("runs").iterdir()
        lines = (path / "samples.jsonl").read_bytes().splitlines(keepends=True)
        on_disk = {json.loads(line)["messages"][-1]["content"] for line in lines if line.endswith(b"\n")}
        assert on_disk
        n_before = len(pictures.calls)
        if n_replies == 16:
            resumed = cli(*command)
            assert resumed.code == 0, resumed.err
            asked = Counter(text_of(body) for body in pictures.calls[n_before:])
            assert asked and not asked.keys() & on_disk and set(asked.values()) == {1}
    samples = [
        {each["question_id"]: (each["answer"], each.get("images")) for each in map(json.loads, lines)}
        for lines in (next(Path(name).iterdir()).joinpath("samples.jsonl").open() for name in ("runs", "whole"))
    ]
    assert samples[0] == samples[1] and len(samples[0]) == 24
    assert json.loads(resumed.out)["metrics"] == json.loads(undisturbed.out)["metrics"]
