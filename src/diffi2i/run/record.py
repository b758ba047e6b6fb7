"""The record of a run, `result.json`: what was run, on what, with what, and what came out.

The dataclasses are the one list of what a record has. They are light to import, since tables read records and need no
network for it.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from diffi2i.errors import UserError
from diffi2i.files import write_json
from diffi2i.run.identity import first_difference

VERSION = 3
"""Of the record's form. Records of version 0.1 have none."""


@dataclass(frozen=True)
class Score:
    """One score, in its own unit; see `metrics`.

    `n` images are behind `value`, which is None where it does not apply. `low` and `high` are the ends of its 95 %
    interval over the images, `baseline` is the score of the naive output. `gains` tell by how much a change makes the
    score better: `prior_dependence`, the own Z in place of another image's. `why_not` says why there is no value or,
    where there is one, why it has no interval.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    gains: dict[str, float] = field(default_factory=dict)
    why_not: str | None = None


@dataclass(frozen=True)
class Init:
    """The run that a training started from, by its method, the sha256 of its weights and the hash of its settings.

    `network_steps` are those of `Training`.
    """

    method: str
    weights: str
    config_hash: str
    network_steps: int


@dataclass(frozen=True)
class MethodFacts:
    """What made the outputs.

    `label` is what tables call it. `sees_target`: its prediction reads the ground truth. `options` are its resolved
    settings, `settings` those that an evaluation changed, as written. `imported` is the sha256 of another author's
    checkpoint, where that is where the weights come from.
    """

    name: str
    label: str
    model: str
    sees_target: bool
    options: dict[str, Any]
    settings: list[str]
    init: Init | None
    imported: str | None = None


@dataclass(frozen=True)
class DataFacts:
    """What was trained on and scored, and how.

    `train` and `val` are hashes of the files of each split, `inputs` one of the inputs that were made of the scored
    ones by `degrade`, or with given masks, of whose files `masks` is the hash. `crop` and `crops` are
    `TrainConfig.val_crop` and `val_crops`, `input_scale` is that of `SceneConfig`, `protocol` is `ProtocolConfig` with
    the evaluation's seed. `baseline` is `input itself`, or `constant`, and `constant` then the class or the metres. Of
    labels and depth both are None where the training's record is missing.
    """

    dataset: str | None
    train: str | None
    val: str
    inputs: str | None
    degrade: dict[str, Any] | None
    crop: int | None
    crops: int
    input_scale: float
    protocol: dict[str, Any]
    baseline: str | None
    constant: float | None
    masks: str | None = None


@dataclass(frozen=True)
class Cost:
    """What a prediction takes, of one image whose target has the shape `measured_at` (C, H, W).

    `macs` are multiply-accumulates, `calls` runs of the part that runs most, of which `timed_calls` were timed and the
    rest reckoned; `cpu_seconds` are those of this process on all its threads, `peak_memory_mb` MiB.
    """

    parameters: int
    macs: int | None
    calls: int | None
    seconds_per_image: float
    cpu_seconds: float | None
    peak_memory_mb: float
    measured_at: list[int]
    timed_calls: int | None = None


@dataclass(frozen=True)
class Training:
    """Optimiser steps of this run, and of the scored network with those of the runs before; wall and processor seconds.

    Both times add up over interruptions; the processor's is that of the first process, without data workers.
    `changed` lists the settings that were changed on the way, with `key`, `from`, `to` and the `step`; `skipped` counts
    the steps whose gradient was not finite. `weights` is the sha256 of the file of weights.
    """

    steps: int
    network_steps: int
    seconds: float
    cpu_seconds: float | None
    loss: str | None
    changed: list[dict[str, Any]]
    skipped: int = 0
    weights: str | None = None


@dataclass(frozen=True)
class Provenance:
    """When the record was made (ISO 8601), by which code and settings, on what."""

    date: str
    commit: str | None
    config_hash: str | None
    versions: dict[str, str]
    hardware: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A scored run, or scored folders of pictures, of which budget, seed, method, cost and training are not known.

    `scores` are in the order of tables, `images` and `baseline_images` those of each image: its `name` and the scores
    that it has. `classes` is the IoU of each class, None for one that occurs nowhere.
    """

    task: str
    budget: str | None
    seed: int | None
    main_metric: str
    method: MethodFacts | None
    data: DataFacts
    scores: dict[str, Score]
    cost: Cost | None
    training: Training | None
    provenance: Provenance
    images: list[dict[str, str | float]]
    baseline_images: list[dict[str, str | float]]
    classes: list[float | None] | None
    version: int = VERSION

    def comparable(self, other: "Record") -> str | None:
        """Why the scores of two records do not compare, in words; None where they do.

        They do where task, protocol, images and the inputs made of them are the same. What the methods are, and what
        they were trained on, may differ: that is what is compared.
        """
        if self.task != other.task:
            return f"the task is {self.task} in one, {other.task} in the other"
        ours, theirs = self.data, other.data
        # Scored folders do not say how their inputs were made, and their files are not those that a run reads.
        alike = (self.method is None) == (other.method is None)
        given = ours.masks or theirs.masks  # in place of what `degrade` draws: the inputs tell whether they are equal
        for key, what in (("degrade", "the degradation"), ("crop", "the crop that is scored")):
            if (
                alike
                and not (given and key == "degrade")
                and (found := first_difference(getattr(ours, key), getattr(theirs, key)))
            ):
                return f"{what} is {found[1]} in one, {found[2]} in the other"
        for key in ours.protocol | theirs.protocol:
            if (one := ours.protocol.get(key)) != (another := theirs.protocol.get(key)):
                return f"the protocol's {key} is {one} in one, {another} in the other; score one anew"
        if alike and ours.val != theirs.val:
            return "their images are different files"
        if alike and ours.inputs != theirs.inputs:
            return "their masks are different" if given else "the inputs made of their images are different"
        return None

    def write(self, path: Path) -> None:
        """Writes it as JSON, whole or not at all; infinite and NaN values become words."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Record":
        """The record in a JSON file, or in the `result.json` of a folder.

        Raises:
            UserError: none there, not readable as one, or of another version.
        """
        file = path if path.suffix == ".json" else path / "result.json"
        if not file.is_file():
            raise UserError(f"{file.parent} has no {file.name}: it is no finished run")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or "task" not in found:
                raise UserError(f"{file} is no record: name a run, an eval folder or a JSON of diffi2i score")
            if (version := found.get("version", "0.1")) != VERSION:
                raise UserError(
                    f"{file} is a record of version {version}, not {VERSION}: train the run anew, in another run_dir "
                    "(of scored folders: score them anew)"
                )
            record = RECORD.validate_python(found)
            return replace(record, images=numbers(record.images), baseline_images=numbers(record.baseline_images))
        except ValidationError as error:
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except (ValueError, RecursionError) as error:
            why = str(error)
        raise UserError(f"{file} is damaged ({why}): delete it and give its command again")


RECORD = TypeAdapter(Record)


def numbers(images: list[dict[str, str | float]]) -> list[dict[str, str | float]]:
    """With infinite and NaN scores as numbers again: a picture may be called `nan`, a score not."""
    return [{key: value if key == "name" else float(value) for key, value in image.items()} for image in images]
