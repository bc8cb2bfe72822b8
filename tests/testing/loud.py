"""A module that does what no import may do."""

import torch

print("loading weights")
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)


class Loud:
    """Is no part either."""
