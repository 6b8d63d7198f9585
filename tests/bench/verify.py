"""An independent comparison of a restored tree with its source; shares no code with any tool it judges."""

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

READ_BYTES = 1 << 20
EXAMPLES_KEPT = 5

# The same holes can differ by a few blocks of file system bookkeeping; a filled hole differs by far more.
BLOCK_TOLERANCE = 1.02


@dataclass
class Comparison:
    """Differences by kind ("content", "mtime", ...), with a few examples to look at."""

    entries: int = 0
    differences: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def note(self, kind: str, path: bytes, detail: str) -> None:
        """Counts one difference."""
        self.differences[kind] += 1
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append(f"{kind}: {os.fsdecode(path)}: {detail}")

    def summary(self) -> str | None:
        """Returns "mtime 12, owner 3", or nothing when the trees are the same."""
        return ", ".join(f"{kind} {count}" for kind, count in sorted(self.differences.items())) or None


def find_restored_root(source: Path, target: Path) -> Path:
    """Returns where `source` was restored below `target`: with its absolute path, its name only, or its bare content."""
    for candidate in (target / source.relative_to("/"), target / source.name):
        if candidate.is_dir():
            return candidate
    return target


def compare_trees(source: Path, restored: Path, holes: bool) -> Comparison:
    """Compares everything below two folders: names, types, sizes, bytes, times, modes, owners, links.

    The two roots themselves are not compared, since not every tool restores the folder it was pointed at. `holes` also
    compares allocated blocks. Owners are compared only as root, who alone can set them.
    """
    comparison = Comparison()
    walk = _Walk(comparison, holes, owners=os.geteuid() == 0)
    pending = [b""]
    while pending:
        pending.extend(walk.compare_directory(os.fsencode(source), os.fsencode(restored), pending.pop()))
    return comparison


class _Walk:
    def __init__(self, comparison: Comparison, holes: bool, owners: bool):
        self.comparison = comparison
        self.holes = holes
        self.owners = owners
        # inode in the source -> inode in the copy, for files with several names
        self.links: dict[int, int] = {}

    def compare_directory(self, source: bytes, restored: bytes, relative: bytes) -> list[bytes]:
        """Compares the entries of one directory and returns the directories below it."""
        expected = set(os.listdir(os.path.join(source, relative)))
        present = set(os.listdir(os.path.join(restored, relative)))
        for name in sorted(expected - present):
            self.comparison.note("missing", os.path.join(relative, name), "not restored")
        for name in sorted(present - expected):
            self.comparison.note("extra", os.path.join(relative, name), "not in the source")

        below = []
        for name in sorted(expected & present):
            path = os.path.join(relative, name)
            if self.compare_entry(os.path.join(source, path), os.path.join(restored, path), path):
                below.append(path)
        return below

    def compare_entry(self, source: bytes, restored: bytes, path: bytes) -> bool:
        """Compares one entry; returns whether it is a directory in both trees."""
        self.comparison.entries += 1
        ours, theirs = os.lstat(source), os.lstat(restored)
        if stat.S_IFMT(ours.st_mode) != stat.S_IFMT(theirs.st_mode):
            self.comparison.note("type", path, f"{stat.filemode(theirs.st_mode)} for {stat.filemode(ours.st_mode)}")
            return False

        self.expect("mode", path, stat.S_IMODE(ours.st_mode), stat.S_IMODE(theirs.st_mode))
        self.expect("mtime", path, ours.st_mtime_ns, theirs.st_mtime_ns)
        if self.owners:
            self.expect("owner", path, (ours.st_uid, ours.st_gid), (theirs.st_uid, theirs.st_gid))

        if stat.S_ISLNK(ours.st_mode):
            self.expect("symlink", path, os.readlink(source), os.readlink(restored))
        elif stat.S_ISBLK(ours.st_mode) or stat.S_ISCHR(ours.st_mode):
            self.expect("device", path, ours.st_rdev, theirs.st_rdev)
        elif stat.S_ISREG(ours.st_mode):
            self.compare_file(source, restored, path, ours, theirs)
        return stat.S_ISDIR(ours.st_mode)

    def compare_file(self, source: bytes, restored: bytes, path: bytes, ours, theirs) -> None:
        """Compares size, bytes, hard links and, when asked, holes of a regular file."""
        if ours.st_nlink > 1:
            self.expect("hard link", path, self.links.setdefault(ours.st_ino, theirs.st_ino), theirs.st_ino)
        if ours.st_size != theirs.st_size:
            self.comparison.note("size", path, f"{theirs.st_size} for {ours.st_size}")
        elif ours.st_size > 0 and not same_bytes(source, restored):
            self.comparison.note("content", path, "other bytes")
        if self.holes and theirs.st_blocks > ours.st_blocks * BLOCK_TOLERANCE:
            self.comparison.note("holes", path, f"{theirs.st_blocks} blocks for {ours.st_blocks}")

    def expect(self, kind: str, path: bytes, ours, theirs) -> None:
        """Notes a difference when the two values differ."""
        if ours != theirs:
            self.comparison.note(kind, path, f"{theirs!r} for {ours!r}")


def same_bytes(first: bytes, second: bytes) -> bool:
    """Returns whether two files of equal size hold the same bytes."""
    with open(first, "rb", buffering=0) as one, open(second, "rb", buffering=0) as other:
        while True:
            ours, theirs = one.read(READ_BYTES), other.read(READ_BYTES)
            if ours != theirs:
                return False
            if not ours:
                return True
