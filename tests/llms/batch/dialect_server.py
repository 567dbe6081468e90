"""The batches of other providers on loopback, each as strict as its documents say (see llms/batch/dialects.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.batch_server import BatchServer, _BatchHandler

MB = 10**6
OPENAI_URL = "/v1/chat/completions"
SAMPLING = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "n"}


class Dialect(NamedTuple):
    """What a provider wants.

    `prefix` is the path of its address, `url` that of a request; `hours` the shortest and the longest window, None if a
    batch has none. `keeps` are the keys of the metadata that it keeps, each with the most characters; None keeps all.
    `refuses_line` says what is wrong with a request: at the upload if `at_upload`, else the batch fails.
    """

    prefix: str
    url: str = OPENAI_URL
    hours: tuple[int, int] | None = (24, 24)
    keeps: Mapping[str, int] | None = None
    most_bytes: int = 200 * MB
    at_upload: bool = False
    refuses_line: Callable[[dict[str, Any]], str] = lambda line: ""


def _zhipu(line: dict[str, Any]) -> str:
    if len(line["custom_id"]) < 6:
        return "1214 custom_id 长度不足"
    known = ("glm-4", "glm-4-plus", "fake-model")
    return "" if line["body"]["model"] in known else f"1210 模型名称错误, 支持: {', '.join(known)}"


def _moonshot(line: dict[str, Any]) -> str:
    fixed = SAMPLING - {"n"}
    return ", ".join(f"{name} is fixed" for name in sorted(fixed & set(line["body"])))


DASHSCOPE = Dialect(
    "/compatible-mode/v1",
    hours=(24, 336),
    keeps={"ds_name": 100, "ds_description": 200},
    most_bytes=500 * MB,
    refuses_line=lambda line: "a line has more than 6 MB" if len(json.dumps(line)) > 6 * MB else "",
)
ZHIPU = Dialect(
    "/api/paas/v4", url="/v4/chat/completions", hours=None, most_bytes=100 * MB, at_upload=True, refuses_line=_zhipu
)
MOONSHOT = Dialect("/v1", hours=(12, 168), most_bytes=100 * MB, refuses_line=_moonshot)


class DialectServer(BatchServer):
    """Speaks a dialect, and nothing else."""

    def __init__(self, dialect: Dialect, **settings: Any) -> None:
        super().__init__(**settings)
        self._http.RequestHandlerClass = type("Handler", (_Handler,), {"fake": self})
        self.dialect = dialect
        self.refusal_status = 400  # of an upload; 200 refuses in the form of Zhipu's platform
        self.url = f"{self.root}{dialect.prefix}"


class _Handler(_BatchHandler):
    def _reply(self, method: str, path: str, query: dict[str, list[str]], content: bytes) -> tuple[int, Any]:
        dialect: Dialect = self.fake.dialect
        if not path.startswith(f"{dialect.prefix}/"):
            return 404, {"error": {"message": f"no path {path}"}}
        own = f"/v1{path.removeprefix(dialect.prefix)}"
        if (method, own) == ("POST", "/v1/batches"):
            return self._create(json.loads(content))
        if own == "/v1/batches" and not 1 <= int(query["limit"][0]) <= 100:
            return 400, {"error": {"message": "limit: 1 to 100"}}
        status, value = super()._reply(method, own, query, content)
        if (method, own) == ("POST", "/v1/files"):
            return self._checked(status, value)
        return status, value

    def _checked(self, status: int, value: dict[str, Any]) -> tuple[int, Any]:
        """Check an upload."""
        dialect: Dialect = self.fake.dialect
        content = self.fake.files[value["id"]]
        name = value["filename"]
        if not name.endswith(".jsonl") or not content or len(content) > dialect.most_bytes:
            return 400, {"error": {"message": f"{name}: no .jsonl file of 1 to {dialect.most_bytes} bytes"}}
        if dialect.at_upload and (wrong := self._wrong_lines(content)):
            code, _, message = wrong.partition(" ")
            is_200 = self.fake.refusal_status == 200
            return self.fake.refusal_status, (
                {"code": int(code), "msg": message, "success": False}
                if is_200
                else {"error": {"code": code, "message": message}}
            )
        return status, value

    def _wrong_lines(self, content: bytes) -> str:
        dialect: Dialect = self.fake.dialect
        lines = [json.loads(line) for line in content.splitlines()]
        if len({line["custom_id"] for line in lines}) < len(lines):
            return "1214 custom_id is not unique"
        if len({line["body"]["model"] for line in lines}) > 1:
            return "1210 more than one model"
        for line in lines:
            if set(line) != {"custom_id", "method", "url", "body"} or line["method"] != "POST":
                return "1214 a line has other fields"
            if line["url"] != dialect.url:
                return f"1214 url {line['url']}"
            if wrong := dialect.refuses_line(line):
                return wrong
        return ""

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Check what is asked for, and create the batch as OpenAI's server does."""
        dialect, fake = self.fake.dialect, self.fake
        window = {"completion_window"} if dialect.hours else set()
        if set(body) - {"metadata"} != {"input_file_id", "endpoint"} | window:
            return 400, {"error": {"message": f"fields: {', '.join(sorted(body))}"}}
        if body["endpoint"] != dialect.url or body["input_file_id"] not in fake.files:
            return 400, {"error": {"message": f"endpoint {body['endpoint']}, file {body['input_file_id']}"}}
        if dialect.hours and not (
            (found := re.fullmatch(r"(\d+)([hd])", body["completion_window"]))
            and dialect.hours[0] <= int(found[1]) * (24 if found[2] == "d" else 1) <= dialect.hours[1]
        ):
            return 400, {"error": {"message": f"completion_window {body['completion_window']}"}}
        metadata = body.get("metadata", {})
        if dialect.keeps is not None:
            metadata = {name: text for name, text in metadata.items() if name in dialect.keeps}
            if any(len(text) > dialect.keeps[name] for name, text in metadata.items()):
                return 400, {"error": {"message": "metadata is too long"}}
        openai = {**body, "endpoint": OPENAI_URL, "completion_window": "24h", "metadata": metadata}
        status, shown = super()._reply("POST", "/v1/batches", {}, json.dumps(openai).encode())
        wrong = self._wrong_lines(fake.files[body["input_file_id"]])
        if wrong and not dialect.at_upload:
            code, _, message = wrong.partition(" ")
            fake.batches[shown["id"]] |= {"status": "failed", "errors": {"data": [{"code": code, "message": message}]}}
        return status, shown
