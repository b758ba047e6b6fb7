"""A folder of files made of images: nothing of the user's is replaced, what is done is known, settings do not mix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffi2i.errors import UserError
from diffi2i.files import inside, read_json, write_json

FACTS = ".diffi2i.json"
"""In the output folder: with what its files were made."""


def targets_for(
    names: Mapping[str, str], source: Path, read: Sequence[Path], output: Path, named: bool = False
) -> dict[str, Path]:
    """The file to write for each key: the one of its name below `output`, or `output` itself if that is `named`.

    Args:
        names: what is to be written, paths below `output`.
        source: what the user has named as input.
        read: the files that are read.
        output: what the user has named as output.
        named: whether that is the file of a single image.

    Raises:
        UserError: `output` is no folder, or the input's or inside it; or a target leads out of it, or would replace a
            file that is `read` or one beside the input.
    """
    folder = output.parent if named else output
    if any(place.exists() and not place.is_dir() for place in (folder, *folder.parents)):
        raise UserError(f"output={output} is no folder: name another")
    if folder.resolve() == source.resolve():
        raise UserError(f"output={output} is the folder of the input, whose pictures would be replaced: name another")
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise UserError(f"output={output} lies in the input, of which its pictures would be a part: name another")
    targets = {key: inside(folder, output.name if named else name) for key, name in names.items()}
    kept = {(state.st_dev, state.st_ino): file for file in read if file.exists() for state in [file.stat()]}
    for target in (target for target in targets.values() if target.exists()):
        state = target.stat()
        beside = not named and folder.resolve() == source.parent.resolve()
        if (file := kept.get((state.st_dev, state.st_ino))) or beside or target.is_dir():
            raise UserError(f"output={output} would replace {file or target}: name another output")
    return targets


def done(target: Path, *sources: Path | None) -> bool:
    """Whether the target is there and not older than what it is made of, which is there too."""
    return target.is_file() and all(
        source is None or (source.exists() and source.stat().st_mtime_ns <= target.stat().st_mtime_ns)
        for source in sources
    )


def check_facts(output: Path, facts: Mapping[str, Any], targets: Sequence[Path], overwrite: bool) -> None:
    """Notes with what the folder's files are made.

    Raises:
        UserError: it has files of other settings, or targets of unknown ones.
    """
    place = output / FACTS
    if place.is_file() and not overwrite and any(not file.name.startswith(".") for file in output.iterdir()):
        before = read_json(place)
        if differing := [key for key in facts if before.get(key) != facts[key]]:
            key = differing[0]
            raise UserError(
                f"output={output} has pictures of {key}={before.get(key)}, not {facts[key]}: name another, or "
                "write overwrite=true"
            )
    elif not overwrite and (there := next((target for target in targets if target.exists()), None)):
        raise UserError(f"{there} is there, made with unknown settings: name another output, or write overwrite=true")
    output.mkdir(parents=True, exist_ok=True)
    write_json(place, dict(facts))
