"""Hosts of providers that take no batches, so that --batch is refused before anything is done."""

from __future__ import annotations

from urllib.parse import urlsplit

from qilin_rag.core.errors import UsageError

WITHOUT_BATCHES = {
    "deepseek.com": "has no batches; outside its peak hours (9-12 and 14-18 in Beijing, on working days) each request "
    "costs half",
    "anthropic.com": "has batches in another form, in which one can't be found again after a crash",
}
"""Why, by the end of the host. Read in late 2026:

- DeepSeek (api-docs.deepseek.com, pricing; a request for batches, deepseek-ai/DeepSeek-V3#587, is open): none.
- Anthropic (platform.claude.com/docs, Message Batches): a batch of `/v1/messages` holds no text of its maker, and tells
  the ids of its requests only when it has ended, so that one whose id was lost can't be told from others.
"""


def is_host(address: str, known: str) -> bool:
    """Return whether an address is at a host, or below it.

    >>> is_host("https://api.deepseek.com/v1", "deepseek.com"), is_host("https://notdeepseek.com/v1", "deepseek.com")
    (True, False)
    """
    host = urlsplit(address).hostname or ""
    return host == known or host.endswith(f".{known}")


def check_batch_host(address: str) -> None:
    """Raise a UsageError if the provider at an address takes no batches."""
    if why := next((why for known, why in WITHOUT_BATCHES.items() if is_host(address, known)), None):
        raise UsageError(f"{address} {why}; leave out batch (--batch)")
