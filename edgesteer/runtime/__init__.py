"""The only room that knows llama.cpp: SteeredLlama and its lanes, slots, gates, the tap and the sentinel."""

from edgesteer.runtime.lanes import Lanes
from edgesteer.runtime.llama import SteeredLlama

__all__ = ["Lanes", "SteeredLlama"]
