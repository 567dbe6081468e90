"""LLMs: what answers. `LLM.generate` is the whole interface."""

from qilin_rag.llms.base import LLM, FatalLLMError, LLMError

__all__ = ["LLM", "FatalLLMError", "LLMError"]
