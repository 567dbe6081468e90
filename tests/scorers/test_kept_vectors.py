from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import QilinError
from qilin_rag.pipeline.run import run
from qilin_rag.scorers.bertscore import BertScore
from qilin_rag.scorers.kept_vectors import KeptVectors
from tests.conftest import Cli
from tests.scorers.test_bertscore import tiny_bert, values

torch = pytest.importorskip("torch", reason="needs torch: pip install 'qilin-rag[neural]'")

REFERENCES = [["冷萃咖啡", "夏天浇水"], ["冷水里浇一天"], ["多肉夏天", "夏天浇水"]]
ANSWERS = {"a": ["冷萃", "浇水一天", "不知道"], "b": ["咖啡", "不知道", "**夏天**"], "c": ["夏天浇水", "冷萃", "夏天"]}
N_REFERENCES, N_ANSWERS = 4, 5  # different ones; one of c's answers is a reference

Seen = Counter[tuple[int, ...]]


def keeping(**settings: Any) -> BertScore:
    return BertScore(**{"cache_gb": 8, **settings})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """How often each text went through the model."""
    from qilin_rag.models.token_encoder import Encoder

    found: Seen = Counter()
    encode = Encoder.encode

    def count(self: Encoder, batch: Sequence[Sequence[int]], device: str) -> Any:
        found.update(tuple(ids) for ids in batch)
        return encode(self, batch, device)

    monkeypatch.setattr(Encoder, "encode", count)
    return found


def shards() -> list[Path]:
    return sorted(Path("cache/vectors").glob("*/*.safetensors"))


def made_runs(data_dir: Path) -> list[Path]:
    """Three finished runs with the answers above."""
    lines = [json.loads(line) for line in (data_dir / "dqa.jsonl").read_text(encoding="utf-8").splitlines()]
    for line, references in zip(lines, REFERENCES, strict=True):
        line["answers"] = references
    (data_dir / "dqa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paths = []
    for name, answers in ANSWERS.items():
        path = run(resolve_run({"data": str(data_dir), "runs_dir": name, "metrics": "rouge_l"})).directory.path
        samples = [json.loads(line) for line in (path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
        for sample in samples:
            sample["answer"] = answers[int(sample["question_id"]) - 1]
        (path / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        paths.append(path)
    return paths


@pytest.mark.parametrize("cache_gb", [8, 0])
def test_runs_that_are_scored_together_encode_each_text_once(
    tiny: Path, data_dir: Path, cli: Cli, seen: Seen, cache_gb: int
) -> None:
    paths = made_runs(data_dir)
    setting = ("--set", f"metrics.bertscore.model={tiny}", "--set", f"metrics.bertscore.cache_gb={cache_gb}")
    done = cli("score", *paths, "--metrics", "bertscore", *setting, "--json")
    assert done.code == 0, done.err
    assert set(seen.values()) == {1}
    assert len(seen) == N_REFERENCES + N_ANSWERS
    assert bool(shards()) == bool(cache_gb)
    together = json.loads(done.out)
    assert [record["run"] for record in together] == [str(path) for path in paths]
    for path, record in zip(paths, together, strict=True):
        alone = json.loads(cli("score", path, "--metrics", "bertscore", *setting, "--json").out)
        expected = alone["metrics"]["bertscore"]["value"]
        assert record["metrics"]["bertscore"]["value"] == pytest.approx(expected, abs=1e-6)


def test_an_incomplete_run_stops_all_before_one_is_scored(tiny: Path, data_dir: Path, cli: Cli) -> None:
    first, second, _ = made_runs(data_dir)
    manifest = (second / "manifest.json").read_text(encoding="utf-8")
    (second / "manifest.json").write_text(manifest.replace('"state": "complete"', '"state": "incomplete"'))
    done = cli("score", first, second, "--metrics", "bertscore", "--set", f"metrics.bertscore.model={tiny}")
    assert (done.code, "is incomplete" in done.err) == (2, True)
    assert "bertscore" not in (first / "summary.json").read_text()


def test_nothing_large_is_written_unless_it_is_asked_for(tiny: Path) -> None:
    assert values(BertScore(model=str(tiny)), ANSWERS["a"], REFERENCES)
    assert not shards()


def test_references_come_from_disk_in_another_process(tiny: Path, seen: Seen) -> None:
    cold = values(keeping(model=str(tiny)), ANSWERS["a"], REFERENCES)
    assert len(seen) == N_REFERENCES + 3
    code = (
        "import sys, json\n"
        "from qilin_rag.scorers.bertscore import BertScore\n"
        "from qilin_rag.models.token_encoder import Encoder\n"
        "n, encode = [], Encoder.encode\n"
        "Encoder.encode = lambda self, batch, device: n.extend(batch) or encode(self, batch, device)\n"
        "found = BertScore(model=sys.argv[1], cache_gb=8).score_answers(*json.loads(sys.argv[2]))\n"
        "print(json.dumps([len(n), [each.value for each in found]]))\n"
    )
    command = [sys.executable, "-c", code, str(tiny), json.dumps([ANSWERS["a"], REFERENCES])]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == [3, cold]  # the answers, and the same figures to the last digit


def test_a_figure_does_not_depend_on_what_is_kept(tiny: Path) -> None:
    cold = values(keeping(model=str(tiny)), ANSWERS["b"], REFERENCES)
    assert values(keeping(model=str(tiny)), ANSWERS["b"], REFERENCES) == cold
    assert values(BertScore(model=str(tiny)), ANSWERS["b"], REFERENCES) == cold


def test_each_model_layer_and_precision_has_its_own(tiny: Path, tmp_path: Path, seen: Seen) -> None:
    def encoded(**settings: Any) -> int:
        seen.clear()
        values(keeping(**{"model": str(tiny), **settings}), ["冷"], REFERENCES[:1])
        return len(seen)

    (tmp_path / "others").mkdir()
    other = tiny_bert(tmp_path / "others" / "tiny-bert", seed=1)
    assert [encoded(), encoded()] == [3, 1]
    for settings in ({"layer": 7}, {"precision": "bf16"}, {"model": str(other)}):
        assert [encoded(**settings), encoded(**settings)] == [3, 1]
    assert len({path.parent for path in shards()}) == 4
    assert encoded(batch_size=1, strip_markup=False) == 1


def test_bf16_is_near_and_named(tiny: Path) -> None:
    texts = ["冷萃咖啡怎么做", "夏天浇水", "多肉要一天"]
    exact = keeping(model=str(tiny))
    rough = keeping(model=str(tiny), precision="bf16")
    ours, theirs = (values(each, texts, [["冷水里浇一天"]] * 3) for each in (exact, rough))
    assert ours != theirs
    assert ours == pytest.approx(theirs, abs=0.02)
    assert values(keeping(model=str(tiny), precision="bf16"), texts, [["冷水里浇一天"]] * 3) == theirs  # from disk
    assert rough.signatures()["bertscore"] == exact.signatures()["bertscore"].replace(
        "|layer:8|", "|layer:8|precision:bf16|"
    )


def kept(most_bytes: int = 10**6, name: str = "m") -> KeptVectors:
    made = KeptVectors(name, {"model": name}, most_bytes)
    made.look()
    return made


def put(store: KeptVectors, *texts: int) -> None:
    store.put([(text,) for text in texts], iter([torch.full((10, 100), float(text)) for text in texts]))


def test_what_was_cut_off_or_damaged_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    put(kept(), 1)
    put(kept(), 2)
    first, second = shards()
    first.write_bytes(first.read_bytes()[:-1])  # a power cut
    second.with_suffix(".part").write_bytes(second.read_bytes()[:500])  # a kill
    again = kept()
    assert sum((text,) in again for text in (1, 2)) == 1
    assert shards() == [second]
    assert "damaged" in caplog.text
    os.utime(second.with_suffix(".part"), (0, 0))
    kept()
    assert list(second.parent.iterdir()) == [second]


def test_what_the_disk_changed_is_not_believed() -> None:
    put(kept(), 1, 2)
    [shard] = shards()
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    store = kept()
    with pytest.raises(QilinError, match=r"were damaged and are removed now; the same command makes them again"):
        for text in (1, 2):
            store.get((text,))
    assert shards() == []


def test_two_processes_at_a_time_lose_nothing() -> None:
    one, other = kept(), kept()
    put(one, 1, 2)
    put(other, 2, 3)
    third = kept()
    assert [third.get((text,))[0, 0].item() for text in (1, 2, 3)] == [1, 2, 3]
    assert (3,) not in one
    one.look()
    assert one.get((3,)).shape == (10, 100)


def test_two_processes_that_are_killed_leave_whole_shards(caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "import sys, torch\n"
        "from tests.scorers.test_kept_vectors import kept, put\n"
        "store = kept(10**9)\n"
        "for text in range(int(sys.argv[1]), 10**6, 2):\n"
        "    put(store, text)\n"
        "    print(text, flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, first], stdout=subprocess.PIPE, text=True, env=environment)
        for first in "01"
    ]
    said = [[int(writer.stdout.readline()) for _ in range(20)] for writer in writers if writer.stdout]
    for writer in writers:
        writer.kill()
        writer.communicate()
    again = kept(10**9)
    assert all(again.get((text,))[0, 0].item() == text for text in [*said[0], *said[1]])
    assert caplog.messages == []


def test_what_was_not_used_for_longest_makes_room() -> None:
    limit = 3 * 4300  # three shards of 4,000 bytes and a head
    for text in (1, 2, 3):
        put(kept(limit, f"m{text}"), text)
    by_text = {int(path.parent.name[1]): path for path in shards()}
    for age, text in enumerate((3, 1, 2)):
        os.utime(by_text[text], (age, age))
    kept(limit, "m3").look([(3,)])  # used
    store = kept(limit, "m4")
    put(store, 4)
    assert {path.parent.name[:2] for path in shards()} == {"m2", "m3", "m4"}
    put(store, 5)
    put(store, 6)
    assert {path.parent.name[:2] for path in shards()} == {"m4"}
    assert sum(path.stat().st_size for path in shards()) <= limit


def test_what_another_corpus_left_makes_room_under_the_same_model(caplog: pytest.LogCaptureFixture) -> None:
    limit = 3 * 4300
    for text in (1, 2, 3):
        put(kept(limit), text)
    store = kept(limit)
    store.look([(2,)])
    put(store, 4)
    put(store, 5)
    assert [(text,) in kept(limit) for text in (1, 2, 3, 4, 5)] == [False, True, False, True, True]
    assert [store.get((text,))[0, 0].item() for text in (1, 2, 3, 4, 5)] == [1, 2, 3, 4, 5]
    assert caplog.messages == []


def test_what_is_more_than_the_limit_is_held_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    store = kept(2 * 4300)
    for text in (1, 2, 3, 4):
        put(store, text)
    assert len(shards()) == 2
    assert [store.get((text,))[0, 0].item() for text in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert sum("more vectors than cache_gb allows" in message for message in caplog.messages) == 1


def test_a_shard_that_another_process_removes_can_still_be_read() -> None:
    store = kept()
    put(store, 1)
    shards()[0].unlink()
    assert store.get((1,))[0, 0].item() == 1
    assert (1,) not in kept()


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(
    tiny: Path, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    expected = values(BertScore(model=str(tiny)), ["冷"], REFERENCES[:1])
    Path("cache").mkdir(exist_ok=True)
    Path("cache/vectors").write_text("in the way")
    caplog.set_level(logging.WARNING)
    scorer = keeping(model=str(tiny))
    assert values(scorer, ["冷"], REFERENCES[:1]) == expected
    assert ["can't be kept" in message for message in caplog.messages] == [True]
    seen.clear()
    assert values(scorer, ["萃"], REFERENCES[:1])
    assert len(seen) == 1
