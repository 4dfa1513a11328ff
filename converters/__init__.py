"""Torch artifacts to bundles, and training in Torch; imported as `edgesteer_converters`.

    readers, vectors, networks   a producer's files -> Artifact
    convert                      Artifact -> bundle, compared with Torch
    writers                      bundle -> other tools' files
    train                        what `edgesteer learn --refine` goes on with, by gradients
    against_repeng               the same vector in repeng on Torch, timed beside edgesteer

Torch is allowed here and nowhere else, and is imported when it is needed. The room imports edgesteer, never
the
reverse: the command line's `convert`, `verify --against`, `learn --refine` and `bench --against repeng` are
its doors. The folder is called `converters` in the repository, and installed as `edgesteer_converters` so
that it does not claim that common name in site-packages.
"""

__all__: list[str] = []
