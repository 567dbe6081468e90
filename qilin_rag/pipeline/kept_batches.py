"""The batches in the ledgers of a folder of runs: what is recorded of them, and what their services say now.

A ledger may come from a stranger, so nothing is sent to an address that only a ledger names: a service is asked at the
address of a shipped preset, with its key, or at one that the caller names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from qilin_rag.config.presets import read_preset
from qilin_rag.config.resources import shipped_root
from qilin_rag.core.directories import BATCHES
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.event_loops import run_async
from qilin_rag.core.text import clean
from qilin_rag.llms import FatalLLMError
from qilin_rag.llms.batch.ledger import RECORD, Ledger, LedgerEntry
from qilin_rag.llms.batch.run_batch import RunBatch
from qilin_rag.llms.batch.service import BatchService, BatchState
from qilin_rag.llms.batch.services import service_of
from qilin_rag.llms.endpoint import Endpoint
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.llms.retry import TransientError
from qilin_rag.pipeline.run_directory import RunDirectory

T = TypeVar("T")
_AT_ONCE = 8
_TIMEOUT_S = 30.0
_INTERRUPTED = "the command that answered it has ended, and asks the rest when it is given again"
_CANCELLING = ("cancelling", "canceling")


class KeptBatch(NamedTuple):
    """A batch in the ledger of a run or a judgement.

    Attributes:
        directory: The directory of the run or the judgement.
        entry: The batch in its ledger.
        now: What its service says; None if the service was not asked, or did not answer.
        why_not: Why `now` is not known; empty if it need not be, since the batch has ended.
    """

    directory: Path
    entry: LedgerEntry
    now: BatchState | None = None
    why_not: str = ""

    @property
    def has_ended(self) -> bool:
        """Return whether the record says that the service will answer no more."""
        return self.entry.record.state in ("fetched", "closed")

    @property
    def is_interrupted(self) -> bool:
        """Return whether it was being answered on this machine by a command that has ended."""
        return self.entry.record.service == RunBatch.name and not RunDirectory(self.directory).is_in_use

    @property
    def id(self) -> str:
        """Return the service's id; before there is one, the name of the folder."""
        return self.entry.record.batch_id or self.entry.folder.name

    @property
    def recorded(self) -> str:
        """Return the state that is recorded."""
        record = self.entry.record
        return record.said or record.state if record.state == "submitted" else record.state

    @property
    def age_s(self) -> float | None:
        """Return the seconds since it was written; None if the record names no time."""
        try:
            created = datetime.fromisoformat(self.entry.record.created)
        except ValueError:
            return None
        return None if created.tzinfo is None else (datetime.now(UTC) - created).total_seconds()


class Access(NamedTuple):
    """The variable that holds the key for an address."""

    api_key_env: str
    query: Mapping[str, str] = {}


def find_batches(folders: Sequence[Path]) -> list[KeptBatch]:
    """Return the batches of runs and judgements in these folders, and in folders in them, oldest first.

    Raises:
        UsageError: if a folder does not exist, or a record can't be read.
    """
    if absent := next((folder for folder in folders if not folder.is_dir()), None):
        raise UsageError(f"{absent} is not a folder of runs; begin with: qilin-rag run")
    found: dict[Path, Path] = {}
    for folder in folders:
        for depth in ("", "*/", "*/*/"):
            for path in folder.glob(f"{depth}{BATCHES}/*/{RECORD}"):
                directory = path.parents[2]
                found.setdefault(directory.resolve(), directory)
    kept = [KeptBatch(directory, entry) for directory in found.values() for entry in Ledger(directory).entries()]
    return sorted(kept, key=lambda each: (each.entry.record.created, each.entry.folder.name))


def known_addresses(named: Iterable[str] = (), api_key_env: str | None = None) -> dict[str, Access]:
    """Return how services are asked: those of the shipped presets, and those at the addresses that the caller names.

    Args:
        named: Addresses.
        api_key_env: The variable that holds the key for them; None takes the preset's, or OPENAI_API_KEY.
    """
    fields = OpenAICompatible.model_fields
    known: dict[str, Access] = {}
    for path in sorted((shipped_root() / "configs/llms").glob("*.yaml")):
        preset = read_preset(path)
        address = str(preset.get("base_url", fields["base_url"].default)).rstrip("/")
        variable = str(preset.get("api_key_env", fields["api_key_env"].default))
        known.setdefault(address, Access(variable, preset.get("query", {})))
    for address in (each.rstrip("/") for each in named):
        default = known.get(address, Access(str(fields["api_key_env"].default)))
        known[address] = default._replace(api_key_env=api_key_env or default.api_key_env)
    return known


def ask_states(batches: Sequence[KeptBatch], known: Mapping[str, Access]) -> list[KeptBatch]:
    """Ask the services about the batches that have not ended; a service that can't be asked fails no other."""
    return run_async(lambda: _ask_states(batches, known))


def cancel_batch(kept: KeptBatch, known: Mapping[str, Access]) -> KeptBatch:
    """Cancel a batch that has not ended, and record what its service says.

    A process that is waiting for the batch records it itself.

    Raises:
        UsageError: if its service can't be asked.
        FatalLLMError: if its service can't cancel it.
    """
    if kept.has_ended:
        return kept
    if kept.is_interrupted:
        return kept._replace(why_not=_INTERRUPTED)
    if why_not := _why_not(kept, known):
        raise UsageError(f"batch {kept.id} can't be cancelled: {why_not}")
    directory = RunDirectory(kept.directory)
    is_waited_for = directory.is_in_use
    with nullcontext() if is_waited_for else directory.locked():
        try:
            cancelled = run_async(lambda: _with_service(kept, known, _cancel))
        except TransientError as error:
            raise FatalLLMError(f"batch {kept.id} is not cancelled: {error}; the same command tries again") from error
        if not is_waited_for:
            _record(cancelled)
    return cancelled


async def _ask_states(batches: Sequence[KeptBatch], known: Mapping[str, Access]) -> list[KeptBatch]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def asked(kept: KeptBatch) -> KeptBatch:
        if kept.has_ended:
            return kept
        if why_not := _why_not(kept, known):
            return kept._replace(why_not=why_not)
        async with turns:
            try:
                return await _with_service(kept, known, _look)
            except (QilinError, TransientError) as error:
                return kept._replace(why_not=clean(str(error)))

    return list(await asyncio.gather(*map(asked, batches)))


def _why_not(kept: KeptBatch, known: Mapping[str, Access]) -> str:
    """Return why the service of a batch can't be asked; empty if it can."""
    record = kept.entry.record
    if kept.is_interrupted:
        return _INTERRUPTED
    if record.service == RunBatch.name:
        return "it is answered on this machine, by the command that began it; Ctrl-C there stops it"
    access = known.get(record.base_url.rstrip("/"))
    if access is None:
        return (
            f"{record.base_url} is not the address of a preset; if the key may go there: --base-url {record.base_url} "
            "--api-key-env NAME"
        )
    try:
        Endpoint(record.base_url, None, api_key_env=access.api_key_env, timeout_s=_TIMEOUT_S).api_key()
    except UsageError as error:
        return str(error)
    return ""


async def _with_service(
    kept: KeptBatch,
    known: Mapping[str, Access],
    call: Callable[[KeptBatch, BatchService], Awaitable[T]],
) -> T:
    """Make a call at the service of a batch.

    Raises:
        UsageError: if the address belongs to another service than the one that is recorded.
    """
    record = kept.entry.record
    variable, query = known[record.base_url.rstrip("/")]
    endpoint = Endpoint(record.base_url, None, api_key_env=variable, query=query, timeout_s=_TIMEOUT_S)
    service = service_of(endpoint)
    try:
        if service.name != record.service:
            raise UsageError(f"{record.base_url} is the address of {service.name}, not of {record.service}")
        return await call(kept, service)
    finally:
        await service.close()


async def _look(kept: KeptBatch, service: BatchService) -> KeptBatch:
    """Ask for the state of a batch; one without an id is looked for first."""
    record = kept.entry.record
    batch_id = record.batch_id or await service.find(record.tag, record.file_id)
    if batch_id is None:
        return kept._replace(why_not=f"{service.name} has no such batch: it was not submitted")
    if record.batch_id is None:
        found = LedgerEntry(kept.entry.folder, record.model_copy(update={"batch_id": batch_id, "state": "submitted"}))
        kept = kept._replace(entry=found)
    return kept._replace(now=await service.state(batch_id))


async def _cancel(kept: KeptBatch, service: BatchService) -> KeptBatch:
    """Cancel a batch, unless it has ended or is being cancelled."""
    kept = await _look(kept, service)
    if kept.now is None or kept.now.status != "open" or kept.now.said.lower() in _CANCELLING:
        return kept
    return kept._replace(now=await service.cancel(kept.id))


def _record(kept: KeptBatch) -> None:
    """Record the id and the state of a batch, as its service gave them."""
    if kept.now is not None:
        said = {"said": kept.now.said, "done": kept.now.n_done, "failed": kept.now.n_failed}
        kept.entry.update(batch_id=kept.id, state="submitted", **said)
