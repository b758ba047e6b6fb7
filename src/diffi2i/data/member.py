"""A file inside a tar file, with what readers ask of a path."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import SimpleNamespace


@dataclass(frozen=True, slots=True)
class Member:
    """The `size` bytes of `tar` from `start` on, which it calls `name`. The methods are those of `Path`."""

    tar: Path
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}:{self.name}"

    def __fspath__(self) -> str:
        return str(self)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def absolute(self) -> "Member":
        return Member(self.tar.absolute(), self.name, self.start, self.size)

    def is_file(self) -> bool:
        return self.tar.is_file()

    def is_symlink(self) -> bool:
        return self.tar.is_symlink()

    def stat(self) -> SimpleNamespace:
        """Its own size, and the times of change of the tar. Raises `OSError`: there is none."""
        of_tar = self.tar.stat()
        return SimpleNamespace(st_size=self.size, st_mtime_ns=of_tar.st_mtime_ns, st_ctime_ns=of_tar.st_ctime_ns)

    def open(self, _: str = "rb") -> BytesIO:
        """Its bytes; fewer where the tar has been cut off. Raises `OSError`: there is no tar."""
        with self.tar.open("rb") as file:
            file.seek(self.start)
            return BytesIO(file.read(self.size))


Readable = Path | Member
