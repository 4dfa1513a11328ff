"""Control vectors of other producers: one module per producer, each a `readers.Producer`.

    files --read-->  Artifact        with directions on the outputs of blocks as the runtime counts them

Only a producer's module knows how it counts blocks, where it captures, and what else it writes.
"""
