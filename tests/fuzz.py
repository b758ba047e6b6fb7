"""Generated command lines and damaged files: each is taken, or refused in one line. `make fuzz`.

    python -m tests.fuzz [<how many command lines>] [<seed>]

For each command line, which is a real configuration with what a user might write by mistake, ten damaged images, ten
damaged records and a damaged checkpoint are read. For every tenth one such configuration, a small one, is trained: it
shall end within a time, after which it is told to stop. Anything but an answer or an error of one line is printed.
"""

import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from rich.progress import track

from diffi2i.config.compose import completed, conf_dir, load
from diffi2i.config.schema import Config
from diffi2i.data.images import read_image
from diffi2i.errors import UserError
from diffi2i.methods.build import check
from diffi2i.run import checkpoints
from diffi2i.run.record import Record
from diffi2i.tables.markdown import markdown
from tests.chaos import pictures
from tests.conftest import SMALL_METHODS, small
from tests.processes import begun
from tests.table_records import RECORD

NUMBERS = ("0", "-1", "1", "2", "3", "7", "0.5", "-0.5", "1e-9", "1e9", "1e30", "nan", "inf", "-inf", "100000000000")
WORDS = ("null", "???", "''", "true", "no", "abc", "[]", "[1,2]", "[0]", "{}", "{a: 1}", "1e3x", "..", "größe", "[[1]]")
CHOICES = {
    group: sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
    for group in ("task", "method", "model", "dataset", "trainer", "logger")
}
BUDGETS = ("smoke", "demo", "reduced")
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
OUTCOMES = ("accepted", "refused")
STARTS = ("diffi2i_s1", "regressor", "no_prior", "diffir_s1", "autoencoder", "pixel_diffusion", "resshift")
"""Methods that start from no other run."""
# A training that takes longer is told to stop, and has so long to do it.
LONG_SECONDS, STOP_SECONDS = 30.0, 60.0
MOST_BYTES = 8 << 30


# --- command lines --------------------


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


def command(rng: random.Random) -> list[str]:
    """The overrides of one command line, half of the time one of them by mistake, else up to three."""
    task, method = rng.choice(CHOICES["task"]), rng.choice(CHOICES["method"])
    return [f"task={task}", f"method={method}", f"budget={rng.choice(BUDGETS)}", *mistakes(task, method, rng)]


def mistakes(task: str, method: str, rng: random.Random) -> list[str]:
    given: list[str] = []
    known = [(key, value) for key, value in settings_of(task, method) if not key.startswith("task.budgets")]
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.random()
        key, value = rng.choice(known)
        if kind < 0.15:
            group = rng.choice(list(CHOICES))
            given.append(f"{group}={rng.choice(CHOICES[group])}")
        elif kind < 0.8:
            given.append(f"{key}={mistaken(value, rng)}")
        elif kind < 0.9:
            given.append(f"{rng.choice(('', '+', '++', '~'))}{key}x={rng.choice(NUMBERS)}")
        else:
            given.append(f"{rng.choice(('+', '++', '~'))}{key}={rng.choice(WORDS + NUMBERS)}")
    return given


def mistaken(value: Any, rng: random.Random) -> str:
    """A value of the same type that may be out of bounds, or of another type."""
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.8:
        near = (value * 2, value / 2, value + 1, -value)
        return rng.choice((*NUMBERS, *map(str, near)))
    return rng.choice(WORDS + NUMBERS)


def accept(overrides: list[str]) -> None:
    """The check before a training. Raises AssertionError where it takes what is no value."""
    config = load(Config, "train", overrides)
    check(config)
    for key, value in leaves(OmegaConf.to_container(OmegaConf.structured(config))):
        assert value != "???", f"accepted {key}=???"
        assert not isinstance(value, float) or math.isfinite(value), f"accepted {key}={value}"


# --- trainings --------------------


def training(folder: Path, rng: random.Random) -> tuple[str, ...]:
    """The command line of a small training with such mistakes, of whose data and place there is no doubt."""
    method = rng.choice(STARTS)
    task = "sisr" if method in SMALL_METHODS else rng.choice(CHOICES["task"])
    settings = small(task, folder / "images", method)
    return (*settings, *mistakes(task, method, rng), f"root={folder / 'images'}", "run_dir=run", "logger=none")


def train(folder: Path, overrides: Sequence[str]) -> None:
    """Trains in a process of its own, which is told to stop where it takes long.

    Raises:
        UserError: its error line.
        AssertionError: it has ended otherwise, or not when it was told.
    """
    home = folder / "own" / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    process = begun(
        ("train", *overrides), home, {}, lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    )
    stopped = not process.ends_within(LONG_SECONDS)
    if stopped:
        os.kill(process.pid, signal.SIGTERM)
        if not process.ends_within(STOP_SECONDS):
            os.kill(process.pid, signal.SIGKILL)
    answer = process.ended()
    last = (answer.stderr.strip().splitlines() or [""])[-1]
    assert "Traceback" not in answer.stderr, answer.stderr
    assert answer.returncode in ((143,) if stopped else (0, 1, 2)), f"status {answer.returncode}: {last}"
    if answer.returncode:
        assert last.startswith("diffi2i: "), answer.stderr
        raise UserError(last)


# --- files --------------------


def picture(folder: Path, rng: random.Random) -> Path:
    file = folder / "picture"
    mode, side = rng.choice(("RGB", "L", "RGBA", "P", "I;16")), rng.randint(1, 40)
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (side, 2 * side), dtype=np.uint8)
    image = Image.fromarray(values.astype(np.uint16)) if mode == "I;16" else Image.fromarray(values).convert(mode)
    kind = rng.choice(FORMATS)
    plain = kind in ("JPEG", "WEBP", "BMP") or (kind == "TIFF" and mode == "P")
    (image.convert("RGB") if plain else image).save(file, kind)
    return file


def record(folder: Path, rng: random.Random) -> Path:
    """One that is well formed, but for a value somewhere in it."""
    found = json.loads(json.dumps(asdict(RECORD)))
    node, key = found, rng.choice(list(found))
    while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
        node = node[key]
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
    node[key] = rng.choice((None, -1, 1e300, "x", [], {}, [[[]]], True, "nan", {"a": 1}))
    (folder / "result.json").write_text(json.dumps(found))
    return folder / "result.json"


@cache
def sound_checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        times = {"Timer": {"time_elapsed": {"train": 1.0}}, "ProcessorTimer": {"seconds": 1.0}}
        state = {"w": torch.arange(300.0), "b": torch.ones(3)}
        callbacks = times | {"FiniteSteps": {"skipped": 0}}
        torch.save({"global_step": 3, "callbacks": callbacks, "state_dict": state}, Path(folder) / "last.ckpt")
        return (Path(folder) / "last.ckpt").read_bytes()


def checkpoint(folder: Path, _: random.Random) -> Path:
    (folder / "last.ckpt").write_bytes(sound_checkpoint())
    return folder / "last.ckpt"


def damage(file: Path, rng: random.Random) -> None:
    """A few wrong bytes, or its end is missing, or there is more."""
    content = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    if rng.random() < 0.3:
        del content[rng.randrange(len(content)) :]
    file.write_bytes(content + b"\0" * rng.choice((0, 0, 7)))


def read_checkpoint(file: Path) -> None:
    """Raises AssertionError where a damaged one is taken for sound and has other weights."""
    if checkpoints.damage(file) is not None:
        raise UserError("damaged")
    weights = checkpoints.read(file).weights
    assert torch.equal(weights["w"], torch.arange(300.0)), "wrong weights"
    assert torch.equal(weights["b"], torch.ones(3)), "wrong weights"


# --- all of them --------------------


def outcome(what: str, function: Callable[[], object]) -> str:
    """`accepted`, `refused`, or `fault`, which is printed."""
    try:
        function()
    except UserError as error:
        if "\n" not in str(error):
            return "refused"
        print(what, f"several lines: {error}", sep="\n", flush=True)
        return "fault"
    except BaseException:
        print(what, traceback.format_exc(), sep="\n", flush=True)
        return "fault"
    return "accepted"


def trials(count: int, seed: int) -> dict[str, Counter[str]]:
    """What was said of `count` command lines and of the files that go with them."""
    rng, found = random.Random(seed), dict[str, Counter[str]]()

    def note(kind: str, what: str, function: Callable[[], object]) -> None:
        found.setdefault(kind, Counter())[outcome(what, function)] += 1

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pictures(place / "images")
        for i in track(range(count), description="command lines", disable=not sys.stdout.isatty()):
            if i % 500 == 0 and not sys.stdout.isatty():
                print(f"{i} of {count} command lines", file=sys.stderr, flush=True)
            line = command(rng)
            note("command line", f"diffi2i train {' '.join(line)}", lambda line=line: accept(line))  # type: ignore[misc]
            if i % 10 == 0:
                whole = training(place, rng)
                note("training", f"diffi2i train {' '.join(whole)}", lambda whole=whole: train(place, whole))  # type: ignore[misc]
            for kind, make, reader, times in (
                ("image", picture, read_image, 10),
                ("record", record, Record.read, 10),
                ("checkpoint", checkpoint, read_checkpoint, 1),
            ):
                for _ in range(times):
                    file = make(place, rng)
                    if kind != "record" or rng.random() < 0.3:
                        damage(file, rng)
                    note(kind, f"{kind} {i}", lambda file=file, reader=reader: reader(file))  # type: ignore[misc]
    return found


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))  # what fills the memory shall be a fault
    count, seed = map(int, [*sys.argv[1:], *("5000", "0")[len(sys.argv) - 1 :]])
    found = trials(count, seed)
    rows = [
        [kind, str(seen.total()), *(str(seen[each]) for each in (*OUTCOMES, "fault"))] for kind, seen in found.items()
    ]
    print(markdown([["Generated", "Number", "Accepted", "Refused in one line", "Faults"], *rows]))
    return int(any(seen["fault"] for seen in found.values()))


if __name__ == "__main__":
    sys.exit(main())
