"""LLMs, which answer prompts. `LLM.generate` is the whole interface."""

from qilin_rag.llms.base import LLM, ContextOverflowError, FatalLLMError, LLMError

__all__ = ["LLM", "ContextOverflowError", "FatalLLMError", "LLMError"]
