"""The only room that knows llama.cpp: SteeredLlama, slots, gates, the tap and the sentinel."""

from edgesteer.runtime.llama import SteeredLlama

__all__ = ["SteeredLlama"]
