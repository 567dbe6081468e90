"""Attacks on the view: each is tried on every route, also on those that are added later."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from starlette.routing import Route

from qilin_rag.config.run import resolve_run
from qilin_rag.core.judged_answers import ASSIGNED, CHECKED, SUPPORTED
from qilin_rag.pipeline.run import run
from qilin_rag.viewer import tables
from qilin_rag.viewer.folders import Folders
from qilin_rag.viewer.guard import Guard
from qilin_rag.viewer.site import site
from tests.conftest import NOTES, QUESTIONS, write_jsonl
from tests.hostile.watch import watched
from tests.reports.hostile import HOSTILE, hostile_run
from tests.viewer.asking import OWN, Answer, Pairs, ask
from tests.viewer.serving import HOST, TOKEN

ROOT = str(Path(__file__).parents[2])
CANARY = "the-content-of-another-file"
FURTHER = [
    ("note", "1"),
    ("n", "0"),
    ("name", "server.log"),
    ("name", "samples.jsonl"),
    ("format", "csv"),
    ("metric", "rouge_l"),
    ("from", "0"),
]
FILES = ["manifest.json", "questions.jsonl", "samples.jsonl", "scores.jsonl", "summary.json", "judgements.jsonl"]
FILES += [ASSIGNED, CHECKED, SUPPORTED]
READ_ONLY = [name for name in FILES if name != "manifest.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two honest runs, and one in which every field is markup."""
    folder = tmp_path_factory.mktemp("attacked")
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("QILIN_RAG_CACHE", str(folder / "cache"))
        (folder / "small").mkdir()
        write_jsonl(folder / "small" / "notes.jsonl", NOTES)
        write_jsonl(folder / "small" / "dqa.jsonl", QUESTIONS)
        for retriever in ("bm25", "none"):
            run(resolve_run({"data": "small", "retriever": retriever, "metrics": "rouge_l"}))
        hostile_run()
    return folder / "runs"


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


class View:
    """The guarded application over a folder of runs."""

    def __init__(self, folder: Path) -> None:
        self._site = site([folder])
        self.app = Guard(self._site, TOKEN, {HOST}, "view")
        self.keys = list(Folders([folder]).runs())

    def routes(self) -> list[Route]:
        """Every route there is; a new kind of route must be attacked as well."""
        assert all(isinstance(route, Route) for route in self._site.routes)
        return [route for route in self._site.routes if isinstance(route, Route)]

    def addresses(self) -> list[tuple[str, str]]:
        """The path of every route with a method that it answers, fields of the path filled in."""
        return [
            (route.path.replace("{name}", "dom.js").replace("{name:path}", "dom.js"), method)
            for route in self.routes()
            for method in sorted(route.methods or ())
        ]

    def ask(self, path: str, fields: Pairs = (), headers: Pairs = OWN, method: str = "GET") -> Answer:
        """Ask with the token."""
        return ask(self.app, path, fields, headers, method)

    def look_everywhere(self, pattern: str = "*") -> Iterator[tuple[str, Answer]]:
        """Ask every route that reads for every run, by the names that fields have."""
        paths = [path for path, method in self.addresses() if method == "GET"]
        for key in fnmatch.filter(self.keys, pattern) or ["none"]:
            board = self.ask("/api/board", [("run", key), ("of", key)])
            version = json.loads(board.body)["board"] if board.status == 200 else ""
            fields = [("of", key), ("board", version), ("t", "0"), ("id", "1"), ("run", key), *FURTHER]
            for path in paths:
                second = [("run", self.keys[0])] if path.endswith("/compare") else []
                yield path, self.ask(path, [*fields, *second])


def content_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Time and hash of everything in a folder."""
    return {
        str(path): (path.lstat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in sorted(folder.rglob("*"))
    }


ORIGIN = ("origin", f"http://{HOST}")
TOLD = ("authorization", f"Bearer {TOKEN}")
REQUESTS: dict[str, tuple[Pairs, str | None, tuple[int, ...]]] = {
    "another host": ([("host", "evil.example:8765"), TOLD], None, (421,)),
    "no host": ([TOLD], None, (421,)),
    "two hosts": ([("host", HOST), ("host", "evil.example"), TOLD], None, (421,)),
    "the same host twice": ([("host", HOST), ("host", HOST), TOLD], None, (421,)),
    "a user in the host": ([("host", f"{HOST}@evil.example"), TOLD], None, (421,)),
    "this host as user": ([("host", f"evil.example@{HOST}"), TOLD], None, (421,)),
    "a host with a dot": ([("host", "127.0.0.1.:8765"), TOLD], None, (421,)),
    "a forwarded host": ([("host", "evil.example"), ("x-forwarded-host", HOST), TOLD], None, (421,)),
    "no token": ([("host", HOST)], None, (403,)),
    "a token of another port": ([("host", HOST), ("cookie", f"view-9={TOKEN}")], None, (403,)),
    "half a token": ([("host", HOST), ("cookie", f"view={TOKEN[:8]}")], None, (403,)),
    "a token and more": ([("host", HOST), ("authorization", f"Bearer {TOKEN},x")], None, (403,)),
    "a script of another site": ([*OWN, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], None, (403,)),
    "an image of a sibling site": ([*OWN, ("sec-fetch-site", "same-site"), ("sec-fetch-dest", "image")], None, (403,)),
    "a frame": (
        [*OWN, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        None,
        (403,),
    ),
    "a fetch from another port": ([*OWN, ("origin", "http://127.0.0.1:9999")], None, (403,)),
    "a form of another site": ([*OWN, ("origin", "http://evil.example")], "POST", (403,)),
    "a form of a sandbox": ([*OWN, ("origin", "null"), ("sec-fetch-site", "cross-site")], "POST", (403,)),
    "a form without origin": (OWN, "POST", (403,)),
    "PUT": ([*OWN, ORIGIN], "PUT", (405,)),
    "DELETE": ([*OWN, ORIGIN], "DELETE", (405,)),
    "PATCH": ([*OWN, ORIGIN], "PATCH", (405,)),
    "TRACE": ([*OWN, ORIGIN], "TRACE", (405,)),
    "preflight": ([*OWN, ("origin", "http://evil.example")], "OPTIONS", (403,)),
    "an unknown method": ([*OWN, ORIGIN], "PROPFIND", (405,)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_no_person_made_is_refused(name: str, made: Path) -> None:
    headers, method, expected = REQUESTS[name]
    view = View(made)
    for path, own_method in view.addresses():
        answer = view.ask(path, [("run", view.keys[0])], headers, method or own_method)
        assert answer.status in expected, (path, answer)
        assert "access-control-allow-origin" not in answer.headers
        assert TOKEN not in answer.body.decode() + str(answer.headers)


def test_no_websocket_is_opened(made: Path) -> None:
    view = View(made)
    for path, _ in view.addresses():
        assert ask(view.app, path, kind="websocket") == (0, {}, b"")


def test_every_answer_is_bound_and_kept_by_nobody(made: Path) -> None:
    """No frame, no cache, no referrer with a token, no guessed type."""
    view = View(made)
    for path, answer in [*view.look_everywhere(), ("/nothing", view.ask("/nothing"))]:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy, path
        told = [answer.headers[name] for name in ("cache-control", "referrer-policy", "x-content-type-options")]
        assert told == ["no-store", "no-referrer", "nosniff"], path
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind.startswith("text/") or kind in KINDS_OF_FILES, (path, kind)


KINDS_OF_FILES = ("application/json", "application/octet-stream", "text/csv", "text/markdown", "text/plain")
TRAVERSALS = [
    "../small",
    "..%2fsmall",
    "..%252fsmall",
    "%2e%2e/small",
    "..\\small",
    "....//small",
    "/etc/passwd",
    "file:///etc/passwd",
    "small\0",
    "\0",
    ".",
    "..",
    "",
    "~",
    "*",
    "\ud800",
    "x" * 60_000,
]


@pytest.mark.parametrize("key", TRAVERSALS, ids=lambda key: repr(key[:20]))
def test_a_name_is_never_a_path(key: str, runs: Path) -> None:
    (runs.parent / "small").mkdir()
    shutil.copytree(next(runs.iterdir()), runs.parent / "small" / "run")
    (runs.parent / "small" / "manifest.json").write_text(json.dumps({"secret": CANARY}))
    view = View(runs)
    for path, method in view.addresses():
        answer = view.ask(path, [(name, key) for name in ("run", "a", "b", "question", "name")], method=method)
        assert answer.status < 500 and CANARY.encode() not in answer.body, path
        assert b"root:" not in answer.body
    for route in view.routes():
        if "{" in route.path:
            path = route.path.partition("{")[0] + key
            answer = view.ask(path)
            assert answer.status in (404, 405, 307) and CANARY.encode() not in answer.body, path


@pytest.mark.slow
def test_thousands_of_names_are_asked_for_once(made: Path) -> None:
    view = View(made)
    for path, method in view.addresses():
        if method == "GET":
            assert view.ask(path, [("run", key) for key in view.keys] * 3_400).status < 500, path
            assert view.ask(path, [("run", f"run{at}") for at in range(10_000)]).status < 500, path


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
def test_a_file_of_a_run_that_is_none_is_refused_at_once(kind: str, runs: Path) -> None:
    secret = runs.parent / "secret"
    secret.write_text("".join(f"{json.dumps({'question_id': '1', 'answer': CANARY})}\n" for _ in range(3)))
    for at, name in enumerate(READ_ONLY):
        copy = shutil.copytree(next(runs.glob("small-bm25*")), runs / f"attack{at}")
        (copy / name).unlink(missing_ok=True)
        match kind:
            case "link":
                (copy / name).symlink_to(secret)
            case "pipe":
                os.mkfifo(copy / name)
            case "folder":
                (copy / name).mkdir()
            case _:
                (copy / name).symlink_to("/dev/zero")
        for log in ("server.log", "run.log", "judge-server.log"):
            (copy / log).symlink_to(secret)
    (runs / "linked").symlink_to(runs / "attack0")
    view = View(runs)
    assert "linked" not in view.keys and "attack0" in view.keys
    for path, answer in view.look_everywhere("attack*"):
        assert answer.status < 500 and CANARY.encode() not in answer.body, path


def test_nothing_that_a_run_holds_becomes_markup(made: Path) -> None:
    """What a page of the server holds is its own; what runs hold comes as JSON or as text, which is no markup."""
    view = View(made)
    for path, answer in view.look_everywhere():
        assert answer.status < 500, (path, answer.body)
        kind = answer.headers["content-type"].partition(";")[0]
        if kind == "text/html":
            assert not [each for each in HOSTILE if "<" in each and each.encode() in answer.body], path
        elif "attachment" in answer.headers.get("content-disposition", ""):
            assert kind in KINDS_OF_FILES, path
        elif kind == "application/json":
            json.loads(answer.body)
        else:
            assert kind in ("text/plain", "text/javascript", "text/css", "text/event-stream"), path


NAMES = [
    "line\nbreak",
    "\"quoted' name",
    "<script>window.hacked=1</script>".replace("/", ":"),
    "..dots..",
    "100%25",
    "a\u202eb",
    "\x1b[31mred",
    "&amp;",
    "?run=other#x",
    "名字",
    "x" * 250,
]


def test_folders_of_any_name_are_shown_by_it(runs: Path) -> None:
    honest = next(runs.glob("small-bm25*"))
    for name in NAMES:
        shutil.copytree(honest, runs / name)
    shutil.copytree(honest, runs / os.fsdecode(b"\xff\xfe-no-utf-8"))
    view = View(runs)
    assert set(NAMES) < set(view.keys) and r"\xff\xfe-no-utf-8" in view.keys
    for path, answer in view.look_everywhere():
        assert answer.status < 500, (path, answer.body)
        if "content-disposition" not in answer.headers:  # a file is given as it is
            answer.body.decode()


def test_a_folder_that_may_not_be_read_hides_no_other(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs / "closed").mkdir(mode=0)
    view = View(runs)
    assert len(view.keys) == 3
    assert all(answer.status < 500 for _, answer in view.look_everywhere())
    (runs / "closed").chmod(0o700)


@pytest.mark.parametrize(
    "damage",
    [
        "[" * 100_000,
        '{"a":' * 50_000,
        "null",
        "",
        '"\ud800"',
        '{"n_questions": 1' + "0" * 5_000 + "}",
        "\0" * 1_000,
        "\n" * 100_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_damaged_run_is_told_and_hides_no_other(damage: str, runs: Path) -> None:
    for at, name in enumerate(FILES):
        copy = shutil.copytree(next(runs.glob("small-bm25*")), runs / f"attack{at}")
        (copy / name).write_bytes(damage.encode(errors="surrogatepass"))
    view = View(runs)
    for path, answer in view.look_everywhere("attack*"):
        assert answer.status < 500, (path, answer.body)
        if "content-disposition" not in answer.headers:  # a file is given as it is
            answer.body.decode()


NESTED: list[Any] = []
for _ in range(400):
    NESTED = [NESTED]
FIELDS: dict[str, list[Any]] = {
    "n_questions": [-1, 10**30, "3", None, 2.5],
    "started": ["never", "", "9999-99-99T99:99:99", "<script>", None, 5],
    "updated": ["never", "9999999-01-01", None],
    "generation_s": [-1, 1e308, "NaN", None],
    "times": [{"sittings": -1}, {"retrieval_s": 1e308}, None, []],
    "labels": [{"data": "x" * 1_000_000, "retriever": "\u202e", "llm": "\x1b[2J", "prompt": "\0"}, {}, None],
    "state": ["incomplete", "other", None],
    "fingerprint": ["x" * 1_000_000, ""],
    "seed": [-1, 10**30],
    "config": [{}, {"llm": {"name": "os:system"}}, None],
    "server": [{"a": "\ud800", "b": NESTED}, {"a": "x" * 5_000_000}],
    "prompt": [{"name": NESTED}, {"name": "../../manifest", "sha256": ""}],
    "packages": [{"a": "\ud800"}],
    "identity": [{}, {"retriever": NESTED, "top_k": 10**30}],
}


def test_a_report_that_no_browser_could_open_is_not_made(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = View(made)
    assert view.ask("/api/download", [("format", "html"), ("run", view.keys[0])]).status == 200
    n_bytes = sum(file.stat().st_size for file in made.glob("*/samples.jsonl"))
    for most in (1_000, n_bytes):  # there is more than samples
        monkeypatch.setattr(tables, "_MOST_REPORT_BYTES", most)
        answer = view.ask("/api/download", [("format", "html")])
        assert answer.status == 400 and "report" in answer.body.decode() and b"\n" not in answer.body.strip()


@pytest.mark.slow
def test_any_value_of_a_manifest_is_told_or_shown(runs: Path) -> None:
    honest = next(runs.glob("small-bm25*"))
    manifest = json.loads((honest / "manifest.json").read_text())
    for field, values in FIELDS.items():
        for at, value in enumerate(values):
            copy = shutil.copytree(honest, runs / f"attack-{field}{at}")
            (copy / "manifest.json").write_text(json.dumps({**manifest, field: value}))
    view = View(runs)
    for path, answer in view.look_everywhere("attack*"):
        assert answer.status < 500, (path, answer.body)
        assert len(answer.body) < 1_000_000 or path.startswith(("/page/", "/api/run", "/api/file")), path


def test_a_run_of_a_stranger_runs_no_code_and_sends_nothing(runs: Path) -> None:
    """Its components are names of classes in a file beside it, which writes a file when it is imported."""
    honest = next(runs.glob("small-bm25*"))
    (runs.parent / "strange_v.py").write_text("open('canary.txt', 'w').write('changed')\n")
    manifest = json.loads((honest / "manifest.json").read_text())
    named = {"name": "strange_v:X", "settings": {"base_url": "https://evil.example/v1"}}
    for at, part in enumerate(("retriever", "llm", "metrics", "prompt", "data")):
        value = {"metrics": {"strange_v:X": {}}, "prompt": "strange_v:X", "data": "hub:evil/x"}.get(part, named)
        for state in ("complete", "incomplete"):
            copy = shutil.copytree(honest, runs / f"stranger{at}{state}")
            changed = {**manifest, "state": state, "config": {**manifest["config"], part: value}}
            (copy / "manifest.json").write_text(json.dumps(changed))
    with watched() as watch:
        assert all(answer.status < 500 for _, answer in View(runs).look_everywhere("stranger*"))
    assert (watch.programs, watch.places) == ([], [])
    assert "strange_v" not in sys.modules and not Path("canary.txt").exists()


def test_no_route_changes_a_run(runs: Path) -> None:
    before = content_of(runs)
    view = View(runs)
    for path, method in view.addresses():
        if method != "GET":
            view.ask(path, [("run", view.keys[0])], [*OWN, ORIGIN], method)
    assert [answer.status for _, answer in view.look_everywhere()]
    assert content_of(runs) == before


LOOK = """
import resource, sys
from pathlib import Path
from tests.viewer.test_attacks import View
view = View(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
for path, answer in view.look_everywhere("attack*"):
    assert answer.status < 500, (path, answer.body[:500])
status = Path("/proc/self/status").read_text()  # ru_maxrss is also of the process that began this one
print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("fill", ["one line", "tiny lines"])
def test_files_of_a_gigabyte_are_refused_in_little_memory(fill: str, runs: Path) -> None:
    """A sparse file holds a gigabyte on no disk. The process may not have the memory for three copies of it."""
    for at, name in enumerate(("questions.jsonl", "samples.jsonl", "scores.jsonl")):
        copy = shutil.copytree(next(runs.glob("small-bm25*")), runs / f"attack{at}")
        with (copy / name).open("r+b") as file:
            if fill == "one line":
                file.seek(0, os.SEEK_END)
                file.write(b'{"question_id": "')
                file.truncate(1 << 30 if name != "scores.jsonl" else 1 << 26)  # scores are hashed as well
            else:
                file.write(b"{}\n" * 5_000_000)
    command = [sys.executable, "-c", LOOK, str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": ROOT})
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 500
