"""Prompt, steering and LoRA as adaptations of one model, measured by the same criteria.

values      what was measured, a row a way
measuring   the door: every way, every criterion
axes        compute, memory, data
drift       specificity: what changes on unrelated text
reversal    whether, and how, the model is the original again
lora        adapters: read, checked, opened
scores      each criterion from 0 to 1, with its formula
"""

from edgesteer.evaluate.adaptation.lora import Lora, read_lora
from edgesteer.evaluate.adaptation.measuring import Adaptation, measure
from edgesteer.evaluate.adaptation.scores import AXES, scores
from edgesteer.evaluate.adaptation.values import Adapted

__all__ = ["AXES", "Adaptation", "Adapted", "Lora", "measure", "read_lora", "scores"]
