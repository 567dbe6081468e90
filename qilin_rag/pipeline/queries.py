"""Ask an LLM, before the search, for the texts of a run's query stage: nothing twice, each reply on disk at once.

Replies are kept in queries.jsonl under a hash of stage, LLM and prompt. A question whose reply can't be used is
searched alone, and counted; one whose call failed has no hits, and is asked again by the same command.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from qilin_rag.config.run import LLMConfig, RunConfig
from qilin_rag.core.cache import cache_dir
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.progress import stage
from qilin_rag.core.text import counted
from qilin_rag.core.types import Price, QueryReply, QueryUse, Question, Usage
from qilin_rag.llms import LLM
from qilin_rag.llms.cache import ResponseCache
from qilin_rag.pipeline.asking import Asked, Asking, Reply, as_line, ask_all, complete
from qilin_rag.pipeline.cost import cost_of, spent_on
from qilin_rag.pipeline.run_directory import QUERIES, RunDirectory
from qilin_rag.pipeline.shared import Shared
from qilin_rag.retrievers.query_stage import QueryStage
from qilin_rag.scorers.refusal import RefusalRate
from qilin_rag.scorers.refusal_patterns import VERSION as REFUSAL_PATTERNS

logger = logging.getLogger(__name__)
_NOT_OF_REPLY = ("language", "prompt", "with_question", "depth")  # in the messages, or of the search
NOT_READ, REFUSED, SAME = "not in the form that was asked for", "refused", "the same as the question"


class Written(NamedTuple):
    """The texts that a query stage wrote, and why other questions have no reply, by question id."""

    texts: dict[str, list[str]]
    failed: dict[str, str]


class QueryWork(NamedTuple):
    """The query stage of a run, how its LLM is asked, the hash of both, and the file that keeps the replies."""

    stage: QueryStage
    config: LLMConfig
    sha256: str
    directory: RunDirectory
    file_name: str = QUERIES

    @classmethod
    def of(
        cls, config: RunConfig, shared: Shared, directory: RunDirectory, file_name: str = QUERIES
    ) -> QueryWork | None:
        """Return the query stage of a run; None if it has none."""
        asked: LLMConfig | None = config.query_config
        if asked is None:
            return None
        asked = asked.model_copy(update={"llm": shared.same(asked.llm)})
        reading = {name: value for name, value in config.query.identity().items() if name not in _NOT_OF_REPLY}
        of_reply = [reading, asked.llm.identity(), REFUSAL_PATTERNS]
        return cls(config.query, asked, json_hash(of_reply, sort_keys=True, ensure_ascii=False), directory, file_name)

    def key(self, question: Question) -> str:
        """Return the key by which the reply about a question is found again."""
        messages = self.stage.render(question.query).messages
        return json_hash([self.sha256, messages], sort_keys=False, ensure_ascii=False)

    def read(self, questions: Sequence[Question]) -> dict[str, QueryReply]:
        """Read the last reply about each question by its id; a call that failed counts, too."""
        keys = {question.id: self.key(question) for question in questions}
        lines = self.directory.read_queries(self.file_name)
        return {line.question_id: line for line in lines if keys.get(line.question_id) == line.key}

    def left(self, questions: Sequence[Question]) -> list[Question]:
        """Return the questions without a reply on disk; an empty one or a refusal is a reply."""
        replies = self.read(questions)
        return [each for each in questions if each.id not in replies or replies[each.id].status == "failed"]


def write_queries(
    work: QueryWork, questions: Sequence[Question], shared: Shared, llm: LLM | None = None, fresh: bool = False
) -> Written:
    """Ask about the questions without a reply on disk, and return what is known of all; call it with the file locked.

    Args:
        work: The query stage.
        questions: The questions of the run that are left.
        shared: The replies to runs that asked the same are taken from it.
        llm: The LLM at a server that was started for the run; None asks the one of `work`.
        fresh: Whether to ask past the response cache.
    """
    if left := work.left(questions):
        _ask(work, left, len(questions) - len(left), shared, llm or work.config.llm, fresh)
    replies = work.read(questions)
    failed = {id: line.error or line.why_unanswered for id, line in replies.items() if line.status == "failed"}
    alone = Counter(line.alone for line in replies.values() if line.alone and line.alone != SAME)
    if left and alone:
        reasons = ", ".join(f"{n} {reason}" for reason, n in alone.most_common())
        n_alone, n_questions = sum(alone.values()), counted(len(replies), "question")
        logger.warning("query %s: %d of %s are searched alone: %s", work.stage.called(), n_alone, n_questions, reasons)
    return Written({id: line.texts for id, line in replies.items() if line.texts}, failed)


def _ask(work: QueryWork, questions: Sequence[Question], n_known: int, shared: Shared, llm: LLM, fresh: bool) -> None:
    config, writing_stage = work.config, work.stage
    cache = ResponseCache(cache_dir() / "responses.sqlite", fresh) if config.cache else None
    asking = Asking(llm, config.concurrency, cache, config.batch)

    async def ask(question: Question) -> Asked[QueryReply]:
        key = work.key(question)
        if (same := shared.replies.get(key)) is not None:
            again = {
                "question_id": question.id,
                "cached": True,
                "latency_s": 0.0,
                "retries": 0,
                "batch": False,
                "discarded": Usage(),
            }
            return Asked(same.model_copy(update=again))
        line: dict[str, Any] = {"question_id": question.id, "query": question.query, "messages": [], "key": key}

        async def reply() -> Reply:
            prompt = writing_stage.render(question.query, llm.prompt_budget)
            line["messages"] = prompt.messages
            return await complete(asking, prompt)

        asked = await as_line(QueryReply, line, reply)
        read = _read(writing_stage, question, asked.line)
        if read.status != "failed":
            shared.replies[key] = read
        return asked._replace(line=read)

    with stage(f"writing queries ({writing_stage.called()})", n_known + len(questions), n_known) as advance:
        ask_all(asking, questions, ask, work.directory, advance, work.file_name)


def _read(writing_stage: QueryStage, question: Question, line: QueryReply) -> QueryReply:
    """Return a reply with the texts that are searched, or the reason why there are none."""
    if line.status == "failed":
        return line
    if line.status == "filtered" or (line.is_answered and _refuses(line.answer, question.query)):
        return line.model_copy(update={"alone": REFUSED})
    if not line.is_answered:
        return line.model_copy(update={"alone": line.why_unanswered})
    is_cut = line.status == "truncated" or "maybe_cut" in line.marks
    texts = [] if "maybe_thinking" in line.marks else writing_stage.read(line.answer, is_cut)
    if not texts:
        return line.model_copy(update={"alone": NOT_READ})
    new = [wording.query for wording in writing_stage.wordings(question, texts)]
    return line.model_copy(update={"texts": new, "alone": None if new else SAME})


def _refuses(reply: str, query: str) -> bool:
    """Return whether a reply refuses; one in the words of the question does not."""
    of_reply, of_query = RefusalRate().score_answers([reply, query], [[], []])
    return of_reply == 1 and of_query != 1


def use_of(lines: Iterable[QueryReply], price: Price | None) -> QueryUse:
    """Sum up what a query stage did, and what its calls used and cost.

    Args:
        lines: All lines about it.
        price: The price list of its LLM.
    """
    lines = list(lines)
    last = {line.question_id: line for line in lines}
    spent = spent_on(lines)
    return QueryUse(
        questions=len(last),
        texts=sum(len(line.texts) for line in last.values()),
        alone=dict(Counter(line.alone for line in last.values() if line.alone).most_common()),
        failed=sum(line.status == "failed" for line in last.values()),
        cached=spent.cached,
        retries=spent.retries,
        usage=spent.usage,
        uncounted=spent.uncounted,
        cost=cost_of(spent, price),
    )


def query_price(config: Mapping[str, Any]) -> Price | None:
    """Return the price list for the query stage of a recorded configuration; None if there is none."""
    of_llm = config["llm"]["settings"]
    given = (config["query"]["settings"].get("llm") or {}) if config.get("query") else {}
    is_own = isinstance(given, dict) and "name" not in given
    is_other = not is_own or not {"model", "base_url"}.isdisjoint(given)
    price = given.get("price") if isinstance(given, dict) and (is_other or "price" in given) else of_llm.get("price")
    try:
        return Price.model_validate(price) if price else None
    except ValidationError:
        return None


def use_of_run(directory: RunDirectory, config: Mapping[str, Any]) -> QueryUse | None:
    """Return what the query stage of a run did so far; None if the run has none."""
    return use_of(directory.read_queries(), query_price(config)) if config.get("query") else None
