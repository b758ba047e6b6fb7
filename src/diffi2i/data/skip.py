"""Training on when a file cannot be read, for data sets with a few broken files among many."""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np

from diffi2i.data.manifest import ChangedError
from diffi2i.data.sources import Item
from diffi2i.errors import Note, UserError

OnError = Literal["error", "skip"]
T = TypeVar("T")


def read_or_skip(
    items: Sequence[Item], rng: np.random.Generator, read: Callable[[Item], T], skipped: set[str] | None
) -> tuple[Item, T]:
    """Draw an item uniformly and read it; with `skipped`, draw again as long as the file cannot be read.

    An item known to be broken is drawn and passed over like one just found broken, so what `rng` gives
    does not depend on what was read before.

    Args:
        items: at least one.
        rng: the draw's own generator.
        read: gives what a sample is made of, or raises UserError.
        skipped: names of the items found broken so far; this function adds to it, and warns once for each.
            None: no item is skipped.

    Raises:
        UserError: the item cannot be read (without `skipped`), no item can (with it), or it has changed meanwhile.
    """
    # Counted before each draw: other calls may have found the last readable file broken.
    while skipped is None or len(skipped) < len(items):
        item = items[int(rng.integers(len(items)))]
        if skipped is not None and item.name in skipped:
            continue
        try:
            return item, read(item)
        except UserError as error:
            if skipped is None or isinstance(error, ChangedError):
                raise
            skipped.add(item.name)
            warnings.warn(f"skipped {len(skipped)} unreadable files, last: {error}", Note, stacklevel=2)
    raise UserError(
        f"none of the {len(items)} training files can be read, such as {items[0].target}; check the dataset"
    )
