"""Random numbers keyed by what they are for, so that no draw depends on what was drawn before it."""

import numpy as np

# What a stream is for: the first part of its key.
SAMPLING, AUGMENTATION, HALVES, AGENTS, SHOWN, CONTROL = 1, 2, 3, 4, 5, 6
GAN, GENERATED, DROPOUT = 7, 8, 9


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of `key`, for example `stream(seed, SAMPLING, camera, epoch)`.

    Counter-based (Philox): made anew at any epoch or step, on any worker, it gives the same numbers.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))
