"""Batches of providers whose form differs from OpenAI's; those without batches are in config/batch_hosts.py.

What was read, in late 2026:

- DashScope (help.aliyun.com/zh/model-studio/batch-interfaces-compatible-with-openai, and a mirror of it): 50,000
  requests and 500 MB a file, 6 MB a line; one model and mode of thinking a file; a window from 24h to 336h; `ds_name`
  of at most 100 characters in the metadata; lists of 1 to 100 batches, of the last 30 days; half the price. That other
  keys of the metadata are kept is documented nowhere.
- Zhipu (docs.bigmodel.cn: guide "batch", FAQ "batch-api-issues", API reference): 50,000 requests and 100 MB a file;
  `/v4/chat/completions` as the url of each request and as the endpoint; no `completion_window` in a request; half the
  price; models of a list of its own. Users report that an id of a request has at least 6 characters, and that models
  are checked at the upload (code 1210); neither is documented. That api.z.ai has them could not be confirmed.
- Moonshot (platform.kimi.ai/docs/guide/use-batch-api, docs/api/batch-create): 100 MB a file and 1,000 files an
  organisation; one model a file, kimi-k2.5 or kimi-k2.6, without sampling parameters; a window from 12h to 7d; 60% of
  the price. A number of requests is documented nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from qilin_rag.llms.batch.openai_service import OpenAIBatches
from qilin_rag.llms.batch.service import BatchLimits, BatchService
from qilin_rag.llms.endpoint import Endpoint

_MB = 10**6


class DashScopeBatches(OpenAIBatches):
    """Batches of Alibaba's DashScope."""

    name: ClassVar[str] = "dashscope"
    limits: ClassVar[BatchLimits] = BatchLimits(bytes=500 * _MB)
    tag_name: ClassVar[str] = "ds_name"


class ZhipuBatches(OpenAIBatches):
    """Batches of Zhipu."""

    name: ClassVar[str] = "zhipu"
    limits: ClassVar[BatchLimits] = BatchLimits(bytes=100 * _MB)
    url: ClassVar[str] = "/v4/chat/completions"
    window: ClassVar[str | None] = None


class MoonshotBatches(OpenAIBatches):
    """Batches of Moonshot."""

    name: ClassVar[str] = "moonshot"
    limits: ClassVar[BatchLimits] = BatchLimits(bytes=100 * _MB)


DIALECTS: dict[str, Callable[[Endpoint], BatchService]] = {
    "aliyuncs.com": DashScopeBatches,
    "bigmodel.cn": ZhipuBatches,
    "z.ai": ZhipuBatches,
    "moonshot.cn": MoonshotBatches,
    "moonshot.ai": MoonshotBatches,
}
"""How to get the service at an address, by the end of its host."""
