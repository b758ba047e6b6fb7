"""Makes the files of a release, the weights of experiments/demo: what `diffi2i pull demo/<task> release=...` takes.

    python experiments/release.py [output=dist/release]

Trains what is missing in outputs/runs of the working folder (half an hour on two cores) and writes an archive a task
and SHA256SUMS.
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from diffi2i.commands.hub import trained
from diffi2i.errors import UserError
from diffi2i.run.release import DEMO, SUMS, archive_of
from diffi2i.run.rows import row_files


def main() -> None:
    output = Path(next((word.removeprefix("output=") for word in sys.argv[1:]), "dist/release"))
    output.mkdir(parents=True, exist_ok=True)
    sums = []
    for row in (f"{DEMO}/{task}" for task in row_files(DEMO)):
        with tempfile.TemporaryDirectory() as folder:
            made = trained(row, Path(folder, "export"))
            file = Path(shutil.make_archive(str(output / Path(archive_of(row)).stem), "zip", made))
        sums.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
    (output / SUMS).write_text("".join(sums), encoding="utf-8")
    print(f"{output}: {len(sums)} archives and {SUMS}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
