"""Data by content: manifests, the cache of hashes, and pictures that are in both splits."""

import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from diffi2i.data import manifest as module
from diffi2i.data.manifest import (
    UNREADABLE,
    HashCache,
    Manifest,
    Seal,
    changes,
    file_hash,
    manifest,
    manifest_hash,
    read_manifests,
    shared_pictures,
    write_manifests,
)
from diffi2i.data.sources import Item
from diffi2i.errors import UserError
from tests.refusals import refusal


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, which takes in files however young they are."""
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(module, "SETTLED_NS", -1)
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    names: list[str] = []

    def watched(path: Path) -> str:
        names.append(path.name)
        return file_hash(path)

    monkeypatch.setattr(module, "file_hash", watched)
    return names


def some(folder: Path, **contents: str) -> list[Item]:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content)
    return [Item(name, folder / name) for name in contents]


def test_a_file_is_read_once(tmp_path: Path, cache: Path, read: list[str]) -> None:
    items = some(tmp_path / "d", a="1", b="2")
    first = manifest(items)
    assert read == ["a", "b"]
    assert manifest(items) == first
    assert read == ["a", "b"]
    (tmp_path / "d" / "b").write_text("longer")
    assert manifest(items) != first
    assert read == ["a", "b", "b"]


def test_a_file_changed_within_the_same_second_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a disk whose clock is so coarse that the time of change is the same."""
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path / "cache")
    items = some(tmp_path / "d", a="one")
    second = int(time.time())
    stat = Path.stat

    def coarse(self: Path, **arguments: bool) -> os.stat_result:
        found = stat(self, **arguments)
        if self.name != "a":
            return found
        times = {"st_mtime_ns": second * 10**9, "st_ctime_ns": second * 10**9}
        return os.stat_result(tuple(found), times)

    monkeypatch.setattr(Path, "stat", coarse)
    before = manifest_hash(items)
    Path(items[0].target).write_text("two")
    assert manifest_hash(items) != before


def test_a_change_of_equal_size_that_keeps_the_time_is_noticed(tmp_path: Path, cache: Path) -> None:
    """As when an older file is copied over with its time of change."""
    items = some(tmp_path / "d", a="one")
    before, stat = manifest_hash(items), items[0].target.stat()
    time.sleep(0.02)
    Path(items[0].target).write_text("two")
    os.utime(items[0].target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert items[0].target.stat().st_mtime_ns == stat.st_mtime_ns
    assert manifest_hash(items) != before


@pytest.mark.parametrize("obstacle", ["file", "damaged", "folder"])
def test_where_the_cache_cannot_be_had_files_are_read(
    tmp_path: Path, cache: Path, read: list[str], obstacle: str
) -> None:
    if obstacle == "file":
        cache.write_text("in the way of the folder")
    else:
        cache.mkdir()
        database = cache / "hashes.sqlite"
        database.mkdir() if obstacle == "folder" else database.write_bytes(b"no database" * 100)
    items = some(tmp_path / "d", a="1")
    assert manifest(items) == manifest(items) == {("a", "target"): file_hash(items[0].target)}
    assert read == ["a", "a"]


def test_a_cache_that_another_process_writes_to_is_waited_for_at_the_end_alone(
    tmp_path: Path, cache: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = some(tmp_path / "d", **{str(i): str(i) for i in range(20)})
    manifest(items[:1])
    other = sqlite3.connect(cache / "hashes.sqlite", isolation_level=None)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, timeout: connect(file, timeout=0.3))
    other.execute("begin immediate")
    start = time.monotonic()
    assert len(manifest(items)) == 20
    assert time.monotonic() - start < 2  # not 0.3 s a file
    other.execute("rollback")
    other.close()
    assert len(manifest(items)) == 20
    before = len(read)
    manifest(items)
    assert len(read) == before


def test_many_files_are_kept_on_the_way(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_AT_ONCE", 2)
    items = some(tmp_path / "d", a="1", b="2", c="3")
    with HashCache() as hashes:
        for item in items:
            hashes.hash_of(item.target)
        (count,) = sqlite3.connect(cache / "hashes.sqlite").execute("select count(*) from files").fetchone()
        assert count == 2  # an interrupted reading of a large set does not begin anew


def test_an_unreadable_file_stops_or_counts_as_such(tmp_path: Path, cache: Path) -> None:
    items = [*some(tmp_path / "d", a="1"), Item("gone", tmp_path / "gone")]
    with pytest.raises(UserError, match="gone: cannot be read"):
        manifest(items)
    assert manifest(items, skip_broken=True)["gone", "target"] == UNREADABLE


ODD = ["tab\tname", "line\nname", "separator\u2028\x85name", "quote\"'name", os.fsdecode(b"latin \xe9\xff"), "größe"]


def test_odd_names_survive(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    items = []
    for i, name in enumerate(ODD):
        (folder / name).write_text(str(i))
        items.append(Item(name, folder / name, folder / name))
    found = {"train": manifest(items), "val": manifest(items[:2])}
    assert len(found["train"]) == 2 * len(ODD)
    write_manifests(tmp_path / "data.jsonl.gz", found)
    assert read_manifests(tmp_path / "data.jsonl.gz") == found
    assert changes(found, read_manifests(tmp_path / "data.jsonl.gz")) == []
    assert [file.name for file in tmp_path.glob("*.tmp")] == []
    assert manifest_hash(items) != manifest_hash(items[:-1])


@pytest.mark.parametrize("damage", [b"", b"nothing", None])
def test_a_damaged_manifest_is_said_in_one_line(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "data.jsonl.gz"
    write_manifests(file, {"train": {(str(i), "target"): file_hash(Path(__file__)) for i in range(50)}})
    whole = file.read_bytes()
    if damage is None:  # in the middle of the compressed part
        damage = whole[:40] + bytes(255 - byte for byte in whole[40:60]) + whole[60:]
    file.write_bytes(damage)
    with pytest.raises(UserError, match=r"data\.jsonl\.gz is damaged") as error:
        read_manifests(file)
    assert "\n" not in str(error.value)


def one(**digests: str) -> Manifest:
    return {(name, "target"): digest for name, digest in digests.items()}


def test_changes_are_named() -> None:
    before = {"train": one(a="1", b="2", c="3", d="4"), "val": one(v="9")}
    assert changes(before, before) == []
    now = {"train": one(a="1", b="x", v="9", e="5") | {("a", "input"): "7"}, "val": one(d="4")}
    assert changes(before, now) == [
        "new: a (input)",
        "changed: b",
        "gone: c",
        "from train to val: d",
        "new: e",
        "from val to train: v",
    ]


def test_pictures_in_both_splits_are_found() -> None:
    train = one(a="1", b="2", c="2", broken=UNREADABLE) | {("a", "input"): "8"}
    val = one(x="2", y="3", broken=UNREADABLE) | {("y", "input"): "8"}
    assert shared_pictures(train, val, "target") == [("x", "b")]
    assert shared_pictures(train, val, "input") == [("y", "a")]
    assert shared_pictures(train, one(y="3"), "target") == []


def test_a_moved_folder_is_the_same_data(tmp_path: Path, cache: Path) -> None:
    items = some(tmp_path / "d", a="1", b="2")
    before = manifest(items)
    shutil.move(tmp_path / "d", tmp_path / "moved")
    assert manifest([Item(item.name, tmp_path / "moved" / item.name) for item in items]) == before


def test_a_seal_notices_other_content_alone(tmp_path: Path) -> None:
    items = some(tmp_path / "d", a="1", b="2")
    file, seal = Path(items[0].target), Seal()
    seal.check(file)  # of which nothing is known
    manifest(items, seal=seal)
    os.utime(file, (1, 1))
    seal.check(file)
    for change in (lambda: file.write_text("2"), file.unlink):
        change()
        assert refusal(seal.check, file).startswith(f"{file} has been changed or removed since this run began")
    file.write_text("1")
    seal.check(file)


def test_changes_of_equal_names_in_both_splits_are_named() -> None:
    before = {"train": one(a="1", b="2"), "val": one(a="3", b="4")}
    assert changes(before, {"train": one(a="x", b="2"), "val": one(a="3")}) == ["changed: a", "gone: b"]
