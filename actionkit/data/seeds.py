"""Counter-based randomness: every draw is a function of what it is for, so nothing is saved."""

import hashlib

import numpy as np


def mix(*numbers: int) -> int:
    """A seed from numbers, e.g. (seed, epoch, index, draw): the same everywhere, 63 bits."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(*numbers: int) -> np.random.Generator:
    """A fresh generator for one purpose."""
    return np.random.default_rng(mix(*numbers))
