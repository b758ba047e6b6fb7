"""Which files a dataset is made of, by name and content: what tells one run's data from another's, wherever they lie.

The sha256 of a file that has not changed since it was last read (same path, size and time of change) comes from a small
database in the cache folder, so a set of a million files is read whole only once.
"""

import gzip
import hashlib
import json
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.progress import track

from diffi2i.data.member import Readable
from diffi2i.data.sources import Item, files
from diffi2i.errors import UserError
from diffi2i.files import whole
from diffi2i.weights import cache_dir

# What stands in for the hash of a file that cannot be read, where such files are skipped.
UNREADABLE = "unreadable"
# A file may change within one tick of its disk's clock without a new time of change: younger ones are read again.
SETTLED_NS = 3 * 10**9
# Fewer files are read in a moment: no progress is shown.
MANY = 2000
# Hashes found are kept together, so that processes side by side seldom wait for each other's writing.
KEPT_AT_ONCE = 500

State = tuple[int, int]
Manifest = dict[tuple[str, str], str]
"""The sha256 (hex) of each file by its item's name and its role, `target` or `input`."""


class ChangedError(UserError):
    """A file is not the one that it was when the run began."""


class Seal:
    """What files were like when their manifest was made, so that a change is noticed when one is read after that."""

    def __init__(self) -> None:
        self.files: dict[Readable, tuple[State | None, str]] = {}

    def check(self, path: Readable) -> None:
        """Raises `ChangedError` where size or time of change differ, and the content too."""
        if path not in self.files:
            return
        before, digest = self.files[path]
        if (now := state_of(path)) == before:
            return
        if now is None or file_hash(path) != digest:
            raise ChangedError(
                f"{path} has been changed or removed since this run began: put it back as it was and give the same "
                "command again"
            )
        self.files[path] = now, digest


def manifest(items: Sequence[Item], skip_broken: bool = False, seal: Seal | None = None) -> Manifest:
    """The files of the items, which are sealed too.

    Raises:
        UserError: a file cannot be read. With `skip_broken` it counts as `UNREADABLE`.
    """
    paths = {(item.name, role): path for item in items for role, path in files(item).items()}
    shown = len(paths) > MANY and sys.stdout.isatty()
    found: Manifest = {}
    with HashCache() as cache:
        for key, path in track(paths.items(), description="reading the data", disable=not shown):
            state = state_of(path)
            try:
                found[key] = cache.hash_of(path)
            except UserError:
                if not skip_broken:
                    raise
                found[key] = UNREADABLE
            if seal is not None:
                seal.files[path] = state, found[key]
    return found


def hash_of_manifest(found: Mapping[tuple[str, str], str]) -> str:
    """Sha256 (hex) of a manifest: equal hashes mean equal data."""
    return combined_hash((name, role, digest) for (name, role), digest in found.items())


def manifest_hash(items: Iterable[Item]) -> str:
    """The hash of the items' manifest. Raises UserError when a file cannot be read."""
    return hash_of_manifest(manifest(list(items)))


def combined_hash(entries: Iterable[tuple[str, str, str]]) -> str:
    """The manifest's hash, of each file's name, role and sha256, in whatever order."""
    lines = sorted(f"{name}\t{role}\t{digest}\n" for name, role, digest in entries)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def state_of(path: Readable) -> State | None:
    """Size and time of change; None where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    # Its own time of change too: a copy may bring the time of what it was copied from.
    return stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns)


def file_hash(path: Readable) -> str:
    """Sha256 (hex) of a file's bytes. Raises UserError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the dataset") from error


class HashCache:
    """Hashes of files by path, size and time of change. Where the database cannot be had, every file is read."""

    def __init__(self) -> None:
        self.database: sqlite3.Connection | None = None
        self.found: list[tuple[bytes, int, int, str]] = []

    def __enter__(self) -> "HashCache":
        with suppress(OSError, sqlite3.Error):
            folder = cache_dir()
            folder.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(folder / "hashes.sqlite", timeout=30)
            database.execute(
                "create table if not exists files (path blob primary key, size int, changed int, sha256 text)"
            )
            self.database = database
        return self

    def __exit__(self, *_: object) -> None:
        if self.database is not None:
            self.keep()
            self.database.close()

    def keep(self) -> None:
        """Writes what was found since the last time."""
        assert self.database is not None
        with suppress(sqlite3.Error), self.database:
            self.database.executemany("insert or replace into files values (?, ?, ?, ?)", self.found)
        self.found = []

    def hash_of(self, path: Readable) -> str:
        """Sha256 (hex). Raises UserError when the file cannot be read."""
        if (state := state_of(path)) is None:
            return file_hash(path)  # which says why not
        key = os.fsencode(path.absolute())
        if self.database is not None:
            with suppress(sqlite3.Error):
                row = self.database.execute("select size, changed, sha256 from files where path = ?", (key,)).fetchone()
                if row is not None and row[:2] == state:
                    return str(row[2])
        digest = file_hash(path)
        if self.database is not None and time.time_ns() - state[1] > SETTLED_NS:
            self.found.append((key, *state, digest))
            if len(self.found) >= KEPT_AT_ONCE:
                self.keep()
        return digest


def write_manifests(file: Path, splits: Mapping[str, Manifest]) -> None:
    """Writes [split, name, role, sha256] of each file, a line each, compressed; whole or not at all."""
    lines = [
        json.dumps([split, name, role, digest]) + "\n"
        for split, found in splits.items()
        for (name, role), digest in sorted(found.items())
    ]
    with whole(file) as temporary:
        temporary.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def read_manifests(file: Path) -> dict[str, Manifest]:
    """What `write_manifests` wrote. Raises UserError where it is damaged."""
    found: dict[str, Manifest] = {}
    try:
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            split, name, role, digest = json.loads(line)
            found.setdefault(split, {})[name, role] = digest
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}): name another run_dir") from error
    if not found:
        raise UserError(f"{file} is damaged (it is empty): name another run_dir")
    return found


def changes(before: Mapping[str, Manifest], now: Mapping[str, Manifest]) -> list[str]:
    """What has become of the data, a line a file: `new`, `gone`, `changed`, or moved between the splits."""
    lines = []
    for key in sorted({key for found in (*before.values(), *now.values()) for key in found}):
        was, is_now = ({split for split, found in splits.items() if key in found} for splits in (before, now))
        name = key[0] if key[1] == "target" else f"{key[0]} ({key[1]})"
        gone, new = was - is_now, is_now - was
        if gone and new:
            lines.append(f"from {gone.pop()} to {new.pop()}: {name}")
        elif gone or new:
            lines.append(f"{'gone' if gone else 'new'}: {name}")
        if any(before[split][key] != now[split][key] for split in was & is_now):
            lines.append(f"changed: {name}")
    return lines


def picture_role(target: object) -> str:
    """Which file of an item is the picture: the input, where targets are what a `target` node or reader reads.

    Two of those may well be alike.
    """
    return "target" if target is None else "input"


def shared_pictures(train: Manifest, val: Manifest, role: str) -> list[tuple[str, str]]:
    """Validation items whose picture has the contents of one that is trained on: (its name, the other's), sorted."""
    seen = {digest: name for (name, its), digest in sorted(train.items(), reverse=True) if its == role}
    seen.pop(UNREADABLE, None)
    return [(name, seen[digest]) for (name, its), digest in sorted(val.items()) if its == role and digest in seen]
