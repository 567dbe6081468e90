"""Synthetic Qilin: all seven tables at any size, with known causes of clicks and of feedback on answers."""

from qilin_rag.synth.planted import PlantedAnswers, plant_answers, planted_auc
from qilin_rag.synth.world import Causes, World, resolve_world
from qilin_rag.synth.write import synthesize

__all__ = ["Causes", "PlantedAnswers", "World", "plant_answers", "planted_auc", "resolve_world", "synthesize"]
