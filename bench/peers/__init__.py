"""Other engines on the same weights: making the models, converting them, and running all side by side.

    python -m bench.peers make MODELS            random weights at a fixed seed, in the shapes of two known models
    python -m bench.peers convert MODELS         what the peers read, made by the peers' own converters
    python -m bench.cpu --peers ... --models MODELS

Every engine runs in a process of its own interpreter (`child`), because no environment holds all of them. What such a
process imports (`child` and the runners beside it) needs the standard library and that engine alone.
"""
