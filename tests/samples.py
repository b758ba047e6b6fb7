"""Samples of a dataset."""

from typing import Any

import torch


def same(a: Any, b: Any) -> bool:
    """Whether two samples are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)
