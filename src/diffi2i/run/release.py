"""The demo's weights as files of a release, an archive a task: `diffi2i pull demo/<task>`."""

import shutil
import sys
import tempfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

from diffi2i.errors import UserError
from diffi2i.run.hub import KINDS
from diffi2i.run.rows import no_such, row_files

DEMO = "demo"
"""The table of experiments/ whose rows these are, and what they are pulled by."""
SUMS = "SHA256SUMS"
LARGEST = 2**28
"""Bytes that an unpacked archive may have."""


def demo_row(repo: str) -> str | None:
    """The row that `demo/<task>` names; None for what is another's. Raises `UserError`: no such task."""
    table, _, task = repo.partition("/")
    if table != DEMO:
        return None
    if task not in (known := list(row_files(DEMO))):
        raise no_such("weights of the demo", task, known)
    return repo


def archive_of(row: str) -> str:
    return f"{row.replace('/', '-')}.zip"


def unpacked(row: str, release: str, folder: Path) -> Path:
    """Fetches a row's archive from `release`, a folder or an address, and unpacks it as `folder`.

    Raises:
        UserError: a release that does not answer or does not have it, a wrong sum, or an archive of something else.
    """
    from torch.hub import download_url_to_file

    base = Path(release).resolve().as_uri() if Path(release).is_dir() else release.rstrip("/")
    name = archive_of(row)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        sums, file, made = Path(place, SUMS), Path(place, name), Path(place, "made")
        try:
            download_url_to_file(f"{base}/{SUMS}", str(sums), progress=False)
            known = dict(line.split()[::-1] for line in sums.read_text(encoding="utf-8").splitlines())
            download_url_to_file(f"{base}/{name}", str(file), known[name], sys.stderr.isatty())
            unpack(file, made)
        except KeyError:
            raise UserError(f"{release} has no {name}; {instead(row)}") from None
        except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{release}: {str(error).splitlines()[0]}; {instead(row)}") from error
        if not (made / "config.yaml").is_file():
            raise UserError(f"{release}: {name} holds no run of DiffI2I; {instead(row)}")
        if folder.is_dir():  # an empty one
            folder.rmdir()
        shutil.move(made, folder)
    return folder


def unpack(file: Path, folder: Path) -> None:
    """The files of an export. Raises `ValueError`: others, or too large ones."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if odd := [each.filename for each in members if not any(fnmatch(each.filename, kind) for kind in KINDS)]:
            raise ValueError(f"{file.name} holds {odd[0]}, which no export has")
        if any("/" in each.filename or "\\" in each.filename for each in members):
            raise ValueError(f"{file.name} holds folders, which no export has")
        if sum(each.file_size for each in members) > LARGEST:
            raise ValueError(f"{file.name} is more than {LARGEST >> 20} MiB unpacked")
        archive.extractall(folder)


def instead(row: str) -> str:
    return f"train it here, in some minutes on two cores: diffi2i pull {row} train=true"
