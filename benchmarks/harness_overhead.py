"""What a harness costs beside the model: the same questions to the same endpoint through ours, inspect_ai and lm-eval.

The endpoint gives a fixed answer after a fixed latency, in a process that counts for nobody. All three send the same
messages, which is checked there: real prompts of some 4 KB, which ours retrieves (bm25) and renders itself while the
peers read them from a file. Ours scores by ROUGE-L and retrieval figures, the peers by exact match. CPU seconds are
user and system time of the whole process with its children. The peers get environments of their own, made by pip once.
Then ours alone, at a longer latency: its share of the throughput that latency and concurrency allow, while asking (from
the first call to the last answer, as the endpoint sees it) and as a whole, and its CPU time a call (that of the run
without that of a run of two questions). With `--before`, another version of this package, by its folder, in turn.

usage: python benchmarks/harness_overhead.py [--rounds 3] [--questions 2000] [--folder .bench] [--only peers|throughput]
                                             [--before FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from qilin_rag.data import load_dataset

ROOT = Path(__file__).resolve().parents[1]
PEERS = {"inspect_ai": ["inspect_ai==0.3.285", "openai==3.54.0"], "lm_eval": ["lm_eval[api]==0.4.13"]}
MODEL = "fake-model"
INSPECT_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.model import ChatMessageSystem, ChatMessageUser
from inspect_ai.scorer import exact
from inspect_ai.solver import generate

@task
def bench():
    def sample(row):
        messages = [ChatMessageSystem(content=row["system"]), ChatMessageUser(content=row["user"])]
        return Sample(id=row["id"], input=messages, target=row["target"])
    return Task(dataset=json_dataset("prompts.jsonl", sample), solver=generate(), scorer=exact())
"""
LM_EVAL_TASK = """
task: bench
dataset_path: json
dataset_kwargs: {data_files: {test: prompts.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{user}}"
doc_to_target: "{{target}}"
target_delimiter: ""
generation_kwargs: {until: [], do_sample: false, temperature: 0, max_gen_toks: 1024}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


class Took(NamedTuple):
    """What one whole process took, and what the endpoint saw of it."""

    wall_s: float
    cpu_s: float
    seen: dict[str, Any]


class Bench:
    """A folder with the questions and, once ours has run, the prompts it made of them."""

    def __init__(self, folder: Path, work: Path, n_questions: int) -> None:
        """`folder` keeps the peers' environments, `work` is for this run alone."""
        self.folder, self.work, self.n_questions = folder, work, n_questions
        write_questions(work / "data", n_questions)
        (work / "task.py").write_text(INSPECT_TASK, encoding="utf-8")
        (work / "tasks").mkdir()
        (work / "tasks" / "bench.yaml").write_text(LM_EVAL_TASK, encoding="utf-8")

    def ours(self, url: str, concurrency: int, limit: int | None = None) -> list[str]:
        """Our command; a runs folder of its own, so that nothing is resumed."""
        runs_dir = tempfile.mkdtemp(prefix="runs-", dir=self.work)
        command = [sys.executable, "-m", "qilin_rag", "run", "--data", str(self.work / "data"), "--retriever", "bm25"]
        command += ["--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", url, "--metrics", "rouge_l"]
        command += ["--limit", str(limit)] if limit else []
        return [*command, "--concurrency", str(concurrency), "--no-cache", "--quiet", "--runs-dir", runs_dir]

    def inspect_ai(self, url: str, concurrency: int) -> list[str]:
        """inspect_ai's command."""
        at_once = ["--max-connections", str(concurrency), "--max-samples", str(concurrency)]
        sampling = ["--temperature", "0", "--max-tokens", "1024", "--seed", "0"]
        command = [str(self.folder / "inspect_ai/bin/inspect"), "eval", "task.py", "--display", "plain"]
        return [*command, "--model", f"openai-api/local/{MODEL}", "--model-base-url", url, *at_once, *sampling]

    def lm_eval(self, url: str, concurrency: int) -> list[str]:
        """lm-eval's command."""
        first = json.loads((self.work / "prompts.jsonl").open(encoding="utf-8").readline())
        model = f"model={MODEL},base_url={url}/chat/completions,num_concurrent={concurrency},tokenizer_backend=None"
        command = [str(self.folder / "lm_eval/bin/lm_eval"), "run", "--model", "local-chat-completions"]
        command += ["--model_args", model, "--tasks", "bench", "--include_path", "tasks", "--apply_chat_template"]
        return [*command, "--system_instruction", first["system"]]

    def newest_run(self) -> Path:
        """The run directory that ours wrote last."""
        return max(self.work.glob("runs-*/*/manifest.json"), key=lambda path: path.stat().st_mtime).parent

    def write_prompts(self) -> None:
        """What ours sent and the reference answers, for the peers."""
        with (self.work / "prompts.jsonl").open("w", encoding="utf-8") as file:
            questions = map(json.loads, (self.newest_run() / "questions.jsonl").open(encoding="utf-8"))
            targets = {question["id"]: question["references"][0] for question in questions}
            for sample in map(json.loads, (self.newest_run() / "samples.jsonl").open(encoding="utf-8")):
                row = {message["role"]: message["content"] for message in sample["messages"]}
                row |= {"id": sample["question_id"], "target": targets[sample["question_id"]]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def measured(
        self, name: str, latency_s: float, concurrency: int, tree: Path = ROOT, limit: int | None = None
    ) -> Took:
        """Run one harness, ours of this `tree`, and check that it made every call."""
        with endpoint(latency_s) as url:
            command = self.ours(url, concurrency, limit) if name == "ours" else getattr(self, name)(url, concurrency)
            environment = {**os.environ, "PYTHONPATH": str(tree), "QILIN_RAG_CACHE": str(self.work / "cache")}
            environment |= {"HF_HOME": str(self.work / "hf"), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
            environment |= {"OPENAI_API_KEY": "none", "LOCAL_API_KEY": "none"}
            with (self.work / f"{name}.log").open("wb") as log:
                started = time.perf_counter()
                child = subprocess.Popen(command, cwd=self.work, env=environment, stdout=log, stderr=log)
                _, status, used = os.wait4(child.pid, 0)
                wall_s = time.perf_counter() - started
            seen = counts(url)
        n_calls = limit or self.n_questions
        if status or (seen["n_answered"], seen["n_prompts"]) != (n_calls, n_calls):
            raise SystemExit(f"{name}: status {status}, {seen}\n{(self.work / f'{name}.log').read_text()[-3000:]}")
        return Took(wall_s, used.ru_utime + used.ru_stime, seen)


def write_questions(folder: Path, n_questions: int) -> None:
    """The bundled notes, and its questions over and over, each with its number in it."""
    folder.mkdir()
    dataset = load_dataset("sample")
    notes = dataset.notes.get(list(dataset.notes.note_idxs))
    rows = []
    for i in range(n_questions):
        question = dataset.questions[i % len(dataset.questions)]
        row = {"search_idx": i, "query": f"{question.query}（{i}）", "answers": question.references}
        rows.append(json.dumps({**row, "ref_note_idx_list": question.reference_notes}, ensure_ascii=False))
    (folder / "notes.jsonl").write_text("\n".join(note.model_dump_json() for note in notes), encoding="utf-8")
    (folder / "dqa.jsonl").write_text("\n".join(rows), encoding="utf-8")


@contextmanager
def endpoint(latency_s: float, *more: str) -> Iterator[str]:
    """The address of an endpoint that runs while this does; `more`: characters of an answer."""
    command = [sys.executable, str(Path(__file__).with_name("light_endpoint.py")), str(latency_s), *more]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        server.terminate()


def counts(url: str) -> dict[str, Any]:
    """What the endpoint saw since it was last asked."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found: dict[str, Any] = json.load(direct.open(url.removesuffix("/v1") + "/counts"))
    return found


def make_environment(folder: Path, name: str) -> None:
    """A virtual environment with one peer, where there is none yet."""
    ready = folder / name / "ready"
    if ready.exists():
        return
    print(f"installing {' '.join(PEERS[name])} in {folder / name}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / name)], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
    pip = [str(folder / name / "bin/python"), "-m", "pip", "install", "--quiet", *PEERS[name]]
    subprocess.run(pip, check=True, env=environment)
    ready.touch()


def compare(bench: Bench, n_rounds: int, latency_s: float = 0.05, concurrency: int = 64) -> None:
    """All three in turn; medians over the rounds, and what ours takes of each peer's."""
    for name in PEERS:
        make_environment(bench.folder, name)
    bench.measured("ours", latency_s, concurrency)  # an index of the notes is kept, as it is for the rounds
    bench.write_prompts()
    took: dict[str, list[Took]] = {name: [] for name in ("ours", *PEERS)}
    for _ in range(n_rounds):
        for name, found in took.items():
            found.append(bench.measured(name, latency_s, concurrency))
    if len({round_.seen["prompts_sha256"] for found in took.values() for round_ in found}) > 1:
        raise SystemExit("the harnesses sent different messages")
    ideal_s = math.ceil(bench.n_questions / concurrency) * latency_s
    print(f"{bench.n_questions} questions, {latency_s * 1000:.0f} ms latency, {concurrency} at once: {ideal_s:.1f} s")
    for name, found in took.items():
        line = f"{name:11} wall {median(t.wall_s for t in found):6.1f} s   CPU {median(t.cpu_s for t in found):6.2f} s"
        if name != "ours":
            pairs = list(zip(took["ours"], found, strict=True))
            wall = median(ours.wall_s / peer.wall_s for ours, peer in pairs)
            cpu = median(ours.cpu_s / peer.cpu_s for ours, peer in pairs)
            line += f"   ours takes {wall:.2f} of the wall time, {cpu:.2f} of the CPU time"
        print(line, flush=True)


def throughput(
    bench: Bench, n_rounds: int, before: Path | None, latency_s: float = 0.5, concurrency: int = 128
) -> None:
    """Ours alone: what it reaches of the throughput that latency and concurrency allow, and its CPU time a call."""
    ideal_s = math.ceil(bench.n_questions / concurrency) * latency_s
    print(f"{bench.n_questions} questions, {latency_s * 1000:.0f} ms latency, {concurrency} at once: {ideal_s:.1f} s")
    trees = {**({"before": before} if before else {}), "now": ROOT}
    few = {name: bench.measured("ours", 0.0, 1, tree, limit=2).cpu_s for name, tree in trees.items()}  # also an index
    took: dict[str, list[Took]] = {name: [] for name in trees}
    for _ in range(n_rounds):
        for name, tree in trees.items():
            few[name] = min(few[name], bench.measured("ours", 0.0, 1, tree, limit=2).cpu_s)
            took[name].append(bench.measured("ours", latency_s, concurrency, tree))
            last = took[name][-1]
            print(
                f"  {name}: {last.wall_s:.1f} s, {last.seen['span_s']:.1f} s asking, {last.cpu_s:.2f} s CPU", flush=True
            )
    a_call = {
        name: [1000 * (each.cpu_s - few[name]) / (bench.n_questions - 2) for each in of] for name, of in took.items()
    }
    for name, of in took.items():
        asking, whole = (
            [ideal_s / s for s in all_s] for all_s in ([t.seen["span_s"] for t in of], [t.wall_s for t in of])
        )
        print(
            f"{name:7}{median(asking):.0%} of that throughput while asking (best round {max(asking):.0%}), "
            f"{median(whole):.0%} as a whole ({max(whole):.0%}); {median(a_call[name]):.2f} ms of CPU a call, "
            f"{few[name]:.2f} s for a run of two; {max(t.seen['most_at_once'] for t in of)} at once were seen"
        )
    if before:
        share = median(now / then for now, then in zip(a_call["now"], a_call["before"], strict=True))
        whole_share = median(now.cpu_s / then.cpu_s for now, then in zip(took["now"], took["before"], strict=True))
        print(f"now {share:.2f} of the CPU time a call before, {whole_share:.2f} of that of the whole run")


def main() -> None:
    """Print both comparisons, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench", help="where the peers' environments are kept")
    parser.add_argument("--only", choices=["peers", "throughput"])
    parser.add_argument("--before", type=Path, help="another version of this package, to be measured in turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(options.folder.resolve(), Path(temporary), options.questions)
        if options.only != "throughput":
            compare(bench, options.rounds)
        if options.only != "peers":
            throughput(bench, options.rounds, options.before and options.before.resolve())


if __name__ == "__main__":
    main()
