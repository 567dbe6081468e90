"""Choose the service of batches by the address of an LLM."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from qilin_rag.config.batch_hosts import check_batch_host, is_host
from qilin_rag.core.errors import UsageError
from qilin_rag.llms.base import LLM
from qilin_rag.llms.batch.collector import Collector
from qilin_rag.llms.batch.dialects import DIALECTS
from qilin_rag.llms.batch.offline import Offline
from qilin_rag.llms.batch.openai_service import OpenAIBatches
from qilin_rag.llms.batch.service import BatchService
from qilin_rag.llms.endpoint import Endpoint
from qilin_rag.llms.openai_compatible import OpenAICompatible


def service_of(endpoint: Endpoint) -> BatchService:
    """Return the service of batches at an LLM's address; an address that is not known has OpenAI's form.

    Raises:
        UsageError: if the provider has no batches.
    """
    check_batch_host(endpoint.base_url)
    for known, service in DIALECTS.items():
        if is_host(endpoint.base_url, known):
            return service(endpoint)
    return OpenAIBatches(endpoint)


@asynccontextmanager
async def collecting(llm: LLM, path: Path, n_jobs: int, waits: bool = True) -> AsyncIterator[Collector]:
    """Let an LLM send its requests by batch inside this context.

    Args:
        llm: The LLM.
        path: The file that gets the replies, in a locked run directory, open for writing.
        n_jobs: The most jobs that there are.
        waits: Whether to wait for batches that have not ended; see `Collector`.

    Raises:
        UsageError: if the LLM takes no batches.
    """
    client = llm.client if isinstance(llm, Offline) else llm
    if not isinstance(client, OpenAICompatible):
        raise UsageError(f"llm {llm.called()} takes no batches; leave out batch (--batch)")
    service = llm.batches if isinstance(llm, Offline) else service_of(client.new_endpoint())
    collector = Collector(service, path, base_url=client.base_url, model=client.model, n_jobs=n_jobs, waits=waits)
    async with collector:
        with client.posting_by(collector.post):
            yield collector
