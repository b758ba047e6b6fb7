"""`diffi2i compare`: two records of scores image by image, which tells more than their two means."""

from pathlib import Path
from typing import Any

from diffi2i.config.commands import CompareConfig
from diffi2i.errors import UserError
from diffi2i.files import json_output, write_json
from diffi2i.run.record import Record
from diffi2i.tables.compare import comparison, comparison_table


def compare(config: CompareConfig) -> dict[str, Any]:
    """Prints the table, and writes `output` if asked. Returns what it writes.

    Raises:
        UserError: a place without record, or records that do not compare.
    """
    output, places = config.output and json_output(config.output), config.runs
    if output and not output.parent.is_dir():
        raise UserError(f"output={output}: name a file in a folder that exists")
    if output and any(output.resolve() == Path(place).resolve() for place in places):
        raise UserError(f"output={output} is one of the two that are compared: write another file name")
    a, b = (Record.read(Path(place)) for place in places)
    found = comparison(a, b, places)
    # A run may be scored under other settings than its own; a score of folders does not say what made them.
    shown = [f"{place} ({of.method.label})" if of.method else place for place, of in zip(places, (a, b), strict=True)]
    print(f"\nA: {shown[0]}\nB: {shown[1]}\n{found['task']}, {found['n_images']} images\n")
    print(comparison_table(found["metrics"]))
    print("\nbetter, worse, equal: images of B against A; interval: bootstrap over the images; p: two-sided sign test")
    if output:
        write_json(output, found)
    return found
