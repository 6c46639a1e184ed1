"""Weights made again from a tensor's name and shape, so that none need be stored.

The raw words of the counter-based Philox generator alone are used, whose stream NumPy
promises to keep. What published networks compute with them is in golden/evaluation.
"""

import hashlib

import numpy as np


def uniform(name, shape, seed):
    """float64 in [-1, 1)."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    words = generator.random_raw(int(np.prod(shape, dtype=np.int64)))
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (2 * unit - 1).reshape(shape)


def tensor(name, shape, seed=0):
    """The float32 entry of a published (PyTorch) state dict."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    u = uniform(name, shape, seed)
    if name.endswith("running_var"):
        w = 1 + u / 2
    elif name.endswith("running_mean"):
        w = u / 10
    elif any(word in name for word in ("token", "pos_embed", "position_embeddings")):
        w = u / 2
    elif name.endswith(("gamma", "lambda1")):
        w = 0.5 + u / 4
    elif len(shape) <= 1:
        w = 1 + u / 5 if name.endswith("weight") else u / 10
    else:  # variance 2 / fan_in
        w = u * np.sqrt(6 / np.prod(shape[1:]))
    return w.astype(np.float32)
