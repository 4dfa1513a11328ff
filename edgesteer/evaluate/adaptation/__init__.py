"""Prompt, steering and LoRA as adaptations of one model, measured by the same criteria."""

from edgesteer.evaluate.adaptation.criteria import AXES, Adapted
from edgesteer.evaluate.adaptation.lora import Lora, read_lora
from edgesteer.evaluate.adaptation.measurement import Adaptation, measure

__all__ = ["AXES", "Adaptation", "Adapted", "Lora", "measure", "read_lora"]
