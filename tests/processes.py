"""Processes that work together."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def joined(rank: int, world: int, folder: str) -> Iterator[None]:
    """In one of `world` processes that meet in `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()
