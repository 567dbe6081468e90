"""qilin_rag: a RAG evaluation harness for deep query answering (DQA) on Qilin.

The way of the data is one straight line:
Dataset -> Retriever -> Prompt -> LLM -> Scorer -> run directory -> leaderboard.
"""

__version__ = "0.1.0"
