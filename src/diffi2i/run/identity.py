"""What makes a run this run: a hash of its settings, and where two configurations differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from diffi2i.config.schema import Config

PLACES = (
    "trainer",
    "logger",
    "validation",
    "run_dir",
    "root",
    "trust",
    "dataset.workers",
    "dataset.cache_mb",
    "dataset.source.root",
    "dataset.source.val_root",
    "method.init",
    "task.budgets",
)
"""Keys that do not shape the result: hardware, what is watched, budgets of which the run's own part is in `train`, and
where things lie; what lies there does."""


def config_hash(config: Config) -> str:
    """Eight hex digits that name every setting that shapes the result: all but `PLACES`."""
    return sha256(json.dumps(without(asdict(config), PLACES), sort_keys=True).encode()).hexdigest()[:8]


def without(node: Mapping[str, Any], keys: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Nested dicts less the dotted keys."""
    return {
        name: without(value, keys, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in node.items()
        if prefix + str(name) not in keys
    }


def first_difference(one: Any, other: Any, apart: Sequence[str] = (), key: str = "") -> tuple[str, Any, Any] | None:
    """The first dotted key at which two configurations differ, the keys `apart` left out, with both values."""
    if key in apart or one == other:
        return None
    if isinstance(one, dict) and isinstance(other, dict):
        # What a user writes comes before what follows from it.
        for name in sorted(one | other, key=lambda name: name == "task"):
            path = f"{key}.{name}" if key else str(name)
            if found := first_difference(one.get(name), other.get(name), apart, path):
                return found
        return None
    return key, one, other
