"""Generated command lines: each is refused in one line, or can be built. `make fuzz`.

    python -m tests.fuzz [<how many>] [<seed>]

Takes keys and values of real configurations, changes some of them into what a user might write by mistake, and looks
at what the check before a training says: nothing, or a `UserError` of one line. Anything else is printed.
"""

import math
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from omegaconf import OmegaConf
from rich.progress import track

from diffi2i.config.compose import completed, conf_dir, load
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.build import check

NUMBERS = ("0", "-1", "1", "2", "3", "7", "0.5", "-0.5", "1e-9", "1e9", "1e30", "nan", "inf", "-inf", "100000000000")
WORDS = (
    "null",
    "???",
    "''",
    "true",
    "no",
    "abc",
    "[]",
    "[1,2]",
    "[0]",
    "{}",
    "{a: 1}",
    "1e3x",
    "../..",
    "größe",
    "[[1]]",
)
CHOICES = {
    group: sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
    for group in ("task", "method", "model", "dataset", "trainer", "logger")
}
BUDGETS = ("smoke", "demo", "reduced")


@cache
def settings_of(task: str, method: str) -> list[tuple[str, Any]]:
    """All keys below the groups of a composed configuration, with their values as written."""
    _, composed = completed(Config, "train", [f"task={task}", f"method={method}"])
    return list(leaves(OmegaConf.to_container(composed, resolve=False)))


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def command(random_: random.Random) -> list[str]:
    """The overrides of one command line, one to four of them by mistake."""
    task, method = random_.choice(CHOICES["task"]), random_.choice(CHOICES["method"])
    given = [f"task={task}", f"method={method}", f"budget={random_.choice(BUDGETS)}"]
    known = [(key, value) for key, value in settings_of(task, method) if not key.startswith("task.budgets")]
    for _ in range(random_.randint(1, 4)):
        kind = random_.random()
        key, value = random_.choice(known)
        if kind < 0.15:
            group = random_.choice(list(CHOICES))
            given.append(f"{group}={random_.choice(CHOICES[group])}")
        elif kind < 0.75:
            given.append(f"{key}={mistaken(value, random_)}")
        elif kind < 0.85:
            given.append(f"{random_.choice(('', '+', '++', '~'))}{key}x={random_.choice(NUMBERS)}")
        else:
            given.append(f"{random_.choice(('+', '++', '~'))}{key}={random_.choice(WORDS + NUMBERS)}")
    return given


def mistaken(value: Any, random_: random.Random) -> str:
    """A value of the same type that may be out of bounds, or of another type."""
    if isinstance(value, int | float) and not isinstance(value, bool) and random_.random() < 0.7:
        near = (value * 2, value / 2, value + 1, -value)
        return random_.choice((*NUMBERS, *map(str, near)))
    return random_.choice(WORDS + NUMBERS)


def outcome(overrides: Sequence[str]) -> str:
    """`accepted`, `refused`, or the traceback of what should be neither."""
    try:
        config = load(Config, "train", overrides)
        check(config)
        if broken := [key for key, value in leaves(OmegaConf.to_container(OmegaConf.structured(config))) if odd(value)]:
            return f"accepted although {broken[0]} is no number"
    except UserError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except BaseException:
        return traceback.format_exc()
    return "accepted"


def odd(value: Any) -> bool:
    return (isinstance(value, float) and not math.isfinite(value)) or value == "???"


def main() -> int:
    count, seed = (
        (int(word) for word in (*sys.argv[1:], "5000", "0")[:2]) if len(sys.argv) < 3 else map(int, sys.argv[1:3])
    )
    random_, found, begun = random.Random(seed), Counter[str](), time.monotonic()
    for _ in track(range(count), description="command lines", disable=not sys.stdout.isatty()):
        overrides = command(random_)
        said = outcome(overrides)
        found[said if said in ("accepted", "refused") else "faults"] += 1
        if said not in ("accepted", "refused"):
            print("diffi2i train", " ".join(map(str, overrides)), said, sep="\n", flush=True)
    print(
        f"| command lines | accepted | refused in one line | faults |\n|---|---|---|---|\n"
        f"| {count} (seed {seed}) | {found['accepted']} | {found['refused']} | {found['faults']} |"
    )
    print(f"{time.monotonic() - begun:.0f} s")
    return int(bool(found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
