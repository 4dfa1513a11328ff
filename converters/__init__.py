"""Torch artifacts to bundles, imported as `edgesteer_converters`. Nothing is converted yet.

What this room will hold: readers for control vectors and PSR networks that were trained in Torch (`.pt`,
`.safetensors`, an `nn.Module`), each turning its producer's layout into directions (GGUF) and a gate (ONNX).

Torch is allowed here and nowhere else. The room imports edgesteer, never the reverse; `edgesteer convert`
will be its door. The folder is called `converters` in the repository, and installed as `edgesteer_converters`
so that it does not claim that common name in site-packages.
"""

__all__: list[str] = []
