"""`diffi2i compare`: two records of scores image by image, which tells more than their two means."""

import json
from pathlib import Path
from typing import Any

from diffi2i.config.schema import CompareConfig
from diffi2i.errors import UserError
from diffi2i.results import read_result, write_json
from diffi2i.tables.compare import comparison, comparison_table
from diffi2i.tables.runs import label


def compare(config: CompareConfig) -> dict[str, Any]:
    """Prints the table, and writes `output` if asked. Returns what it writes.

    Raises:
        UserError: a place without record, or records that do not compare.
    """
    output, places = config.output and Path(config.output), config.runs
    if output and (output.suffix != ".json" or not output.parent.is_dir()):
        raise UserError(f"output={output}: write a file name that ends in .json, in a folder that exists")
    a, b = (read_scores(Path(place)) for place in places)
    found = comparison(a, b, places)
    # A run may be scored under other settings than its own; a score of folders does not say what made them.
    shown = [f"{place} ({label(of)})" if "prior" in of else place for place, of in zip(places, (a, b), strict=True)]
    print(f"\nA: {shown[0]}\nB: {shown[1]}\n{found['task']}, {found['n_images']} images\n")
    print(comparison_table(found["metrics"]))
    print("\nbetter, worse, equal: images of B against A; interval: bootstrap over the images; p: two-sided sign test")
    if output:
        write_json(output, found)
    return found


def read_scores(place: Path) -> dict[str, Any]:
    """The record in a run directory, in the folder of an evaluation, or in a JSON file.

    Raises:
        UserError: there is none, or it does not hold the scores of each image.
    """
    if place.is_file() and place.name != "result.json":
        try:
            record: Any = json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{place}: not a readable JSON file ({error}); write it anew by diffi2i score") from error
    else:
        record = read_result(place.parent if place.is_file() else place)
    if not isinstance(record, dict) or not {"task", "protocol", "metrics", "per_image"} <= record.keys():
        raise UserError(f"{place} holds no scores of each image: name a run, an eval folder or a JSON of diffi2i score")
    return record
