"""The only room that knows llama.cpp: SteeredLlama, the sequences of its context, slots, gates, tap and
sentinel."""

from edgesteer.runtime.lanes import Lanes
from edgesteer.runtime.llama import SteeredLlama
from edgesteer.runtime.sequence import Sequence
from edgesteer.runtime.sequences import Sequences

__all__ = ["Lanes", "Sequence", "Sequences", "SteeredLlama"]
