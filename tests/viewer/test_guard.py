"""A request that the person at the machine did not make is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from starlette.testclient import TestClient

from qilin_rag.core.errors import UsageError
from qilin_rag.viewer.app import MOST_BODY_BYTES, build_app, data
from qilin_rag.viewer.folders import Folders
from qilin_rag.viewer.guard import Guard
from qilin_rag.viewer.serving import is_loopback
from tests.viewer.serving import HOST, TOKEN, client_of

APP = build_app(
    [
        data("/api/read", lambda request: {"found": dict(request.query_params)}),
        data("/api/write", lambda request: {"n_bytes": len(request.state.body)}, methods=("POST",)),
        data("/api/wrong", lambda request: raise_usage()),
    ]
)


def raise_usage() -> None:
    raise UsageError("the run is damaged")


def test_an_address_with_the_token_opens_the_view_and_forgets_it() -> None:
    client = client_of(APP, with_token=False)
    assert client.get("/api/read").status_code == 403
    opened = client.get(f"/api/read?a=1&token={TOKEN}")
    assert opened.status_code == 303 and opened.headers["location"] == "/api/read?a=1"
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/api/read?a=1").json() == {"found": {"a": "1"}}
    elsewhere = client.get(f"http://{HOST}//evil.example/x?token={TOKEN}")
    assert elsewhere.headers["location"] == "/evil.example/x"


@pytest.mark.parametrize("given", ["wrong", "", TOKEN[:-1], TOKEN + "x", "令牌"])
def test_another_token_opens_nothing(given: str) -> None:
    client = client_of(APP, with_token=False)
    assert client.get("/api/read", params={"token": given}).status_code == 403
    assert client.get("/api/read", headers=[(b"authorization", f"Bearer {given}".encode())]).status_code == 403
    assert client.get("/api/read", headers=[(b"cookie", f"view={given}".encode())]).status_code == 403


@pytest.mark.parametrize("host", ["evil.example:8765", "127.0.0.1", "127.0.0.1:80", "localhost.evil.example:8765", ""])
def test_another_host_is_refused(host: str) -> None:
    assert client_of(APP).get("/api/read", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("port", [8765, 80])
def test_a_server_of_all_addresses_is_each_address_but_no_other_name(port: int) -> None:
    end = "" if port == 80 else f":{port}"
    guarded = TestClient(Guard(APP, TOKEN, {f"own{end}"}, "view", ip_port=port), base_url="http://own")
    given = {"authorization": f"Bearer {TOKEN}"}
    for host in (f"192.0.2.2{end}", f"[2001:db8::1]{end}", f"own{end}"):
        assert guarded.get("/api/read", headers={"host": host, **given}).status_code == 200
        assert guarded.get("/api/read", headers={"host": host}).status_code == 403
        assert (
            guarded.get("/api/read", headers={"host": host, "origin": "http://evil.example", **given}).status_code
            == 403
        )
    for host in (
        "192.0.2.2:81",
        f"evil.example{end}",
        f"192.0.2.2.evil.example{end}",
        f"[::1{end}",
        f"::1{end}",
        "[]",
        "",
    ):
        assert guarded.get("/api/read", headers={"host": host, **given}).status_code == 421, host


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_to_the_address_on_another_site_opens_the_view(site: str) -> None:
    client = client_of(APP, with_token=False)
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    opened = client.get(f'/api/read?a="><b>&token={TOKEN}', headers=link)
    assert opened.status_code == 200 and "samesite=strict" in opened.headers["set-cookie"].lower()
    assert "0; url=/api/read?a=%22%3E%3Cb%3E" in opened.text and TOKEN not in opened.text
    assert client.get(f'//evil.example/"><b>?token={TOKEN}', headers=link).text.count("<") == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"https://{HOST}"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
def test_a_request_that_another_site_caused_is_refused(headers: Mapping[str, str]) -> None:
    client = client_of(APP)
    assert client.get("/api/read", headers=headers).status_code == 403
    assert client.post("/api/write", headers=headers).status_code == 403


def test_a_request_that_writes_says_its_origin() -> None:
    client = client_of(APP)
    assert client.post("/api/write", content=b"abc").status_code == 403
    own = {"origin": f"http://{HOST}"}
    assert client.post("/api/write", content=b"abc", headers=own).json() == {"n_bytes": 3}
    assert client.post("/api/write", content=bytes(MOST_BODY_BYTES + 1), headers=own).status_code == 413
    assert client.get("/api/write").status_code == 405


def test_every_answer_binds_the_page() -> None:
    client = client_of(APP)
    for answer in (
        client.get("/api/read"),
        client.get("/page/dom.js"),
        client.get("/nothing"),
        client.get("/", headers={"host": "x"}),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "name", ["../html.py", "..%2fhtml.py", "page.html.j2", "%2e%2e/%2e%2e/__init__.py", "", "dom.js/"]
)
def test_only_scripts_and_styles_are_given(name: str) -> None:
    assert client_of(APP).get(f"/page/{name}").status_code in (404, 307)
    assert client_of(APP).get("/page/dom.js").headers["content-type"].startswith("text/javascript")


def test_an_error_is_one_line() -> None:
    answer = client_of(APP).get("/api/wrong")
    assert answer.status_code == 400 and answer.json() == {"error": "the run is damaged"}


def test_a_key_is_looked_up_and_is_no_path(tmp_path: Path) -> None:
    for name in ("runs/one", "runs/group/two", "elsewhere/three"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere" / "three")
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "manifest.json").symlink_to(tmp_path / "elsewhere" / "three" / "manifest.json")
    folders = Folders([tmp_path / "runs", tmp_path / "runs" / "group"])
    assert folders.runs() == {"one": tmp_path / "runs" / "one", "two": tmp_path / "runs" / "group" / "two"}
    app = build_app([data("/api/run", lambda request: folders.run(request).name)])
    client = client_of(app)
    assert client.get("/api/run?run=one").json() == "one"
    for key in (
        "three",
        "linked",
        "half",
        "../elsewhere/three",
        str(tmp_path / "elsewhere" / "three"),
        "",
        "group",
        "group/two",
    ):
        assert client.get("/api/run", params={"run": key}).status_code == 404


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "same").mkdir(parents=True)
        (tmp_path / folder / "same" / "manifest.json").write_text("{}")
    keys = list(Folders([tmp_path / "a", tmp_path / "b"]).runs())
    assert keys == [str(tmp_path / "a" / "same"), str(tmp_path / "b" / "same")]
    with pytest.raises(UsageError, match="nowhere"):
        Folders([tmp_path / "nowhere"])


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org")))
