"""Torch artifacts to bundles, and training in Torch; imported as `edgesteer_converters`.

    readers, vectors, networks   a producer's files -> Artifact
    convert                      Artifact -> bundle, compared with Torch
    writers                      bundle -> other tools' files
    train                        KL training, for `edgesteer learn`
    against_repeng               the same vector in repeng on Torch, timed beside edgesteer

Only this package uses Torch, and imports it when it is needed. It imports edgesteer, never the reverse,
except for the commands `convert`, `verify --against`, `learn` and `bench --against repeng`. The folder is
called `converters` in the repository, and installed as `edgesteer_converters` so that it does not claim that
common name in site-packages.
"""

__all__: list[str] = []
