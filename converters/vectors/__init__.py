"""Control vectors of other producers: one module per producer, each a `readers.Producer`.

    files --read-->  Artifact        with directions on the outputs of blocks as the runtime counts them

What a producer counts from, where it captured and what it writes besides is known in its module alone.
"""
