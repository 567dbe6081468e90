"""qilin_rag: a RAG evaluation harness for deep query answering (DQA) on Qilin.

The way of the data is one straight line:
Dataset -> Retriever -> Prompt -> LLM -> Scorer -> run directory -> leaderboard.

Everything in `__all__` is the public face. It is imported when it is used, so that `import qilin_rag` costs nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"
TYPE_CHECKING = False  # typing's, which takes as long to import as Python to start

if TYPE_CHECKING:
    from qilin_rag.api.comparing import Leaderboard, compare, leaderboard
    from qilin_rag.api.judging import judge
    from qilin_rag.api.runs import RunList, load_runs, run
    from qilin_rag.core.errors import CeilingError, FailedSamplesError, QilinError, UsageError
    from qilin_rag.core.types import Hit, Note, Question
    from qilin_rag.llms.base import LLM
    from qilin_rag.llms.extractive import Extractive
    from qilin_rag.llms.langchain.chat_model import LangChain
    from qilin_rag.llms.openai_compatible import OpenAICompatible
    from qilin_rag.pipeline.finished import Run
    from qilin_rag.pipeline.hooks.base import Hook, TrackedRun
    from qilin_rag.pipeline.imports import import_answers
    from qilin_rag.pipeline.score_lists import AnswerScores, score
    from qilin_rag.reports.compare import Comparison
    from qilin_rag.retrievers.base import Retriever
    from qilin_rag.retrievers.bm25.retriever import BM25
    from qilin_rag.retrievers.dense.history import UserHistory
    from qilin_rag.retrievers.dense.retriever import BiEncoder
    from qilin_rag.retrievers.hybrid import Hybrid
    from qilin_rag.retrievers.langchain import LangChainRetriever
    from qilin_rag.retrievers.mixed import Mixed, Unanswerable
    from qilin_rag.retrievers.multivector.retriever import MultiVector
    from qilin_rag.retrievers.none import NoRetriever
    from qilin_rag.retrievers.oracle import Oracle, OracleTopK
    from qilin_rag.retrievers.query_stage import HyDE, MultiQuery, Rewrite
    from qilin_rag.retrievers.random import Random
    from qilin_rag.retrievers.recorded import Recorded
    from qilin_rag.retrievers.sparse.retriever import LearnedSparse
    from qilin_rag.retrievers.trec import Trec
    from qilin_rag.scorers.base import AnswerScorer, Scorer
    from qilin_rag.scorers.bertscore import BertScore
    from qilin_rag.scorers.citations import Citations
    from qilin_rag.scorers.contains import Contains
    from qilin_rag.scorers.length import LengthRatio
    from qilin_rag.scorers.overlap import Bleu, ChrF
    from qilin_rag.scorers.refusal import RefusalRate
    from qilin_rag.scorers.retrieval import Retrieval
    from qilin_rag.scorers.rouge import Rouge1, Rouge2, RougeL

_NAMES = {
    "api.comparing": ("Leaderboard", "compare", "leaderboard"),
    "api.judging": ("judge",),
    "api.runs": ("RunList", "load_runs", "run"),
    "core.errors": ("CeilingError", "FailedSamplesError", "QilinError", "UsageError"),
    "core.types": ("Hit", "Note", "Question"),
    "llms.base": ("LLM",),
    "llms.extractive": ("Extractive",),
    "llms.langchain.chat_model": ("LangChain",),
    "llms.openai_compatible": ("OpenAICompatible",),
    "pipeline.hooks.base": ("Hook", "TrackedRun"),
    "pipeline.imports": ("import_answers",),
    "pipeline.finished": ("Run",),
    "pipeline.score_lists": ("AnswerScores", "score"),
    "reports.compare": ("Comparison",),
    "retrievers.base": ("Retriever",),
    "retrievers.bm25.retriever": ("BM25",),
    "retrievers.dense.history": ("UserHistory",),
    "retrievers.dense.retriever": ("BiEncoder",),
    "retrievers.hybrid": ("Hybrid",),
    "retrievers.langchain": ("LangChainRetriever",),
    "retrievers.mixed": ("Mixed", "Unanswerable"),
    "retrievers.multivector.retriever": ("MultiVector",),
    "retrievers.none": ("NoRetriever",),
    "retrievers.oracle": ("Oracle", "OracleTopK"),
    "retrievers.query_stage": ("HyDE", "MultiQuery", "Rewrite"),
    "retrievers.random": ("Random",),
    "retrievers.recorded": ("Recorded",),
    "retrievers.sparse.retriever": ("LearnedSparse",),
    "retrievers.trec": ("Trec",),
    "scorers.base": ("AnswerScorer", "Scorer"),
    "scorers.bertscore": ("BertScore",),
    "scorers.citations": ("Citations",),
    "scorers.contains": ("Contains",),
    "scorers.length": ("LengthRatio",),
    "scorers.overlap": ("Bleu", "ChrF"),
    "scorers.refusal": ("RefusalRate",),
    "scorers.retrieval": ("Retrieval",),
    "scorers.rouge": ("Rouge1", "Rouge2", "RougeL"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "BM25",
    "LLM",
    "AnswerScorer",
    "AnswerScores",
    "BertScore",
    "BiEncoder",
    "Bleu",
    "CeilingError",
    "ChrF",
    "Citations",
    "Comparison",
    "Contains",
    "Extractive",
    "FailedSamplesError",
    "Hit",
    "Hook",
    "HyDE",
    "Hybrid",
    "LangChain",
    "LangChainRetriever",
    "Leaderboard",
    "LearnedSparse",
    "LengthRatio",
    "Mixed",
    "MultiQuery",
    "MultiVector",
    "NoRetriever",
    "Note",
    "OpenAICompatible",
    "Oracle",
    "OracleTopK",
    "QilinError",
    "Question",
    "Random",
    "Recorded",
    "RefusalRate",
    "Retrieval",
    "Retriever",
    "Rewrite",
    "Rouge1",
    "Rouge2",
    "RougeL",
    "Run",
    "RunList",
    "Scorer",
    "TrackedRun",
    "Trec",
    "Unanswerable",
    "UsageError",
    "UserHistory",
    "__version__",
    "compare",
    "import_answers",
    "judge",
    "leaderboard",
    "load_runs",
    "run",
    "score",
]


if not TYPE_CHECKING:  # a type checker knows the names above, and refuses others

    def __getattr__(name: str) -> object:
        import importlib

        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
