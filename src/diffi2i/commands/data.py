"""`diffi2i data check`: what a dataset holds, what is wrong, and its manifest. `prepare`: files made of images."""

import os
import sys
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.progress import track

from diffi2i.config.build import build
from diffi2i.config.checks import check_source
from diffi2i.config.commands import CHECK, DataConfig
from diffi2i.config.schema import DatasetConfig
from diffi2i.data.check import SHOWN, check_dataset, write_manifest
from diffi2i.data.given import images_at
from diffi2i.data.outputs import check_facts, done, targets_for
from diffi2i.data.prepare import PREPARATIONS, Piece, line_of, make
from diffi2i.data.sources import Split
from diffi2i.data.workers import working
from diffi2i.errors import Note, UserError
from diffi2i.files import json_output, whole

MOST_JOBS = 8
WORTH = 32
"""Images for which it pays to start a process, which takes as long as some sub-images do."""


def data(config: DataConfig) -> None:
    """The action that `config` names.

    Raises:
        UserError: what it cannot do, before it begins.
        SystemExit: status 1, once all else is done, where files are broken.
    """
    if config.action == CHECK:
        assert config.dataset is not None
        check(config.dataset, config.output)
        return
    assert config.input is not None
    assert config.output is not None
    if config.action in PREPARATIONS:
        broken = prepare(config, config.input, Path(config.output))
    else:
        broken = list_files(config, config.input, Path(config.output))
    for line in broken[:SHOWN]:
        warnings.warn(line, Note, stacklevel=1)
    if len(broken) > SHOWN:
        warnings.warn(f"... and {len(broken) - SHOWN} more", Note, stacklevel=1)
    if broken:
        sys.exit(1)


def check(dataset: DatasetConfig, output: str | None) -> None:
    """Prints the report and writes the manifest to `output`, by default outputs/data/<dataset name>/manifest.json.

    Raises:
        UserError: no such folder, source or target reader, or a manifest that cannot be written.
        SystemExit: status 1, with the manifest written, where anything is broken.
    """
    check_source(dataset)
    place = json_output(output) if output else Path(f"outputs/data/{dataset.name}/manifest.json")
    reader = None if dataset.target is None else build(dataset.target, "dataset.target")
    report = check_dataset(dataset, build(dataset.source, "dataset.source"), reader, splits_of(dataset))
    for line in report.lines():
        print(line)
    write_manifest(report, place)
    print(f"manifest: {place}")
    if report.broken:
        sys.exit(1)


def splits_of(dataset: DatasetConfig) -> list[Split]:
    """The splits that a dataset has: those it gives counts of, else both, or "val" alone where only that has a folder.

    The last is how `diffi2i eval` takes a folder, so its hash can be had here too.
    """
    if dataset.expected:
        return [split for split in ("train", "val") if split in dataset.expected]
    only_val = dataset.source.get("val_root") is not None and dataset.source.get("root") is None
    return ["val"] if only_val else ["train", "val"]


def prepare(config: DataConfig, source: str, output: Path) -> list[str]:
    """Writes the pictures that are made of each image below `output`. Returns what is broken, a line a file.

    Those of an image are passed over where all are there and not older than it.

    Raises:
        UserError: no such input, settings that cannot be, an output that would replace any of these files or has files
            of other settings.
    """
    preparation = PREPARATIONS[config.action](**config.settings)
    files, names, broken = images_at(source), dict[str, list[str]](), list[str]()
    for name, file in files.items():
        try:
            names[name] = preparation.names(name, file)
        except UserError as error:
            broken.append(str(error))
    written = {each: f"{each}.png" for made in names.values() for each in made}
    places = targets_for(written, Path(source), [*files.values()], output)
    check_facts(output, {"action": config.action, **asdict(preparation)}, [*places.values()], config.overwrite)
    pieces = [Piece(name, files[name], [places[each] for each in made]) for name, made in names.items()]
    waiting = [each for each in pieces if config.overwrite or not all(done(place, each.file) for place in each.targets)]

    failed = list[str]()
    with working(workers(config.jobs, len(waiting))) as run:
        for notes, why in track(run(partial(make, preparation), waiting), "preparing", len(waiting)):
            for note in notes:
                warnings.warn(note, Note, stacklevel=1)
            failed += [why] if why else []
    there = len(pieces) - len(waiting)
    print(
        f"{len(waiting) - len(failed)} of {len(files)} images prepared in {output}"
        + (f", {there} were there (overwrite=true makes them anew)" if there else "")
    )
    return [*broken, *failed]


def workers(jobs: int | None, count: int) -> int:
    """How many processes to start for so many images; 0 for none."""
    found = min(os.cpu_count() or 1, MOST_JOBS, count // WORTH) if jobs is None else jobs
    return found if found > 1 else 0


def list_files(config: DataConfig, source: str, output: Path) -> list[str]:
    """Writes a line for each image into the text file `output`. Returns what is broken, a line a file.

    Raises:
        UserError: no such input, or an output that is no text file, or there already.
    """
    if output.suffix.lower() != ".txt" or output.is_dir():
        raise UserError(f"output={output}: write a file name that ends in .txt")
    if output.exists() and not config.overwrite:
        raise UserError(f"output={output} is there already: name another, or write overwrite=true")
    files = images_at(source)
    with working(workers(config.jobs or 1, len(files))) as run:
        found = [*track(run(line_of, [*files.items()]), "listing", len(files))]
    output.parent.mkdir(parents=True, exist_ok=True)
    lines = [line for line, error in found if not error]
    with whole(output) as place:
        place.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} of {len(files)} images listed in {output}")
    return [error for _, error in found if error]
