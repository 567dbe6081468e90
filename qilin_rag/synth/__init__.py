"""Synthetic Qilin: all seven tables at any size, with known causes of clicks."""

from qilin_rag.synth.world import Causes, World, resolve_world
from qilin_rag.synth.write import synthesize

__all__ = ["Causes", "World", "resolve_world", "synthesize"]
