"""The data that is backed up: a tree in a first and in a next version, the same bytes for every tool.

A tree lives in one folder whose path never changes; `place_first` and `place_next` fill it, outside every timed part.
"""

import functools
import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

from peers import SetupError, system_program

MIB = 1 << 20
GIB = 1 << 30

LINUX_PACKAGE = "linux-source-6.1"
LINUX_SMALL_FOLDERS = ["drivers/net", "Documentation"]

IMAGE_SOURCE = Path("/usr/share")
# Any fixed value does; without one the directory hashes, and with them the blocks, would differ from run to run.
IMAGE_UUID = "6b656570-7765-6c6c-8a51-62656e636821"
IMAGE_TIME = "1700000000"
CHANGE_SEED = 20230610
CHANGE_ALIGNMENT = 4096
CHANGE_BYTES = 16 * 1024

SCALE_FILES_PER_FOLDER = 1000
SAMPLE_SOURCES = [Path("/usr/share"), Path("/usr/lib")]
SAMPLE_BYTES = 200 * MIB
SAMPLE_FILES = 20_000
SAMPLE_CHANGE_STRIDE = 50
SAMPLE_NEW_BYTES = 8 * MIB

# Every hundredth file changes between two backups of the tree of small files.
SCALE_CHANGE_STRIDE = 100


class Tree:
    """One data set in two versions."""

    name: str
    title: str
    holes = False
    needed_bytes: int

    def __init__(self, source: Path):
        self.source = source
        # Bytes that differ between the versions, where that is known exactly.
        self.changed_bytes: int | None = None

    def prepare(self, cache: Path, scratch: Path) -> None:
        """Gets the material: downloads into `cache`, builds in `scratch`."""

    def place_first(self) -> None:
        """Fills the folder with the first version."""
        raise NotImplementedError

    def place_next(self) -> None:
        """Turns the folder into the next version."""
        raise NotImplementedError

    def empty(self) -> None:
        """Removes the content of the folder and keeps the folder."""
        self.source.mkdir(parents=True, exist_ok=True)
        for entry in list(self.source.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


class LinuxTree(Tree):
    """The oldest and the newest kernel source in Debian's archive, one after the other in the same folder."""

    name = "linux"

    def __init__(self, source: Path, small: bool):
        super().__init__(source)
        self.folders = LINUX_SMALL_FOLDERS if small else []
        self.needed_bytes = 2 * GIB if small else 6 * GIB
        self.title = "Linux source tree"
        self.archives: list[Path] = []

    def prepare(self, cache, scratch):
        folder = cache / "linux"
        folder.mkdir(parents=True, exist_ok=True)
        versions = debian_versions(LINUX_PACKAGE)
        oldest, newest = versions[0], versions[-1]
        if oldest == newest:
            raise SetupError(f"the archive has only {LINUX_PACKAGE} {oldest}\nhint: add the security archive, apt-get update")
        self.archives = [kernel_archive(folder, scratch, version) for version in (oldest, newest)]
        part = f", only {' and '.join(self.folders)}" if self.folders else ""
        self.title = f"Linux source tree ({LINUX_PACKAGE} {oldest}, then {newest}{part})"

    def place_first(self):
        self._unpack(self.archives[0])

    def place_next(self):
        self._unpack(self.archives[1])

    def _unpack(self, archive: Path) -> None:
        self.empty()
        members = [f"{LINUX_PACKAGE}/{folder}" for folder in self.folders] or [LINUX_PACKAGE]
        call("tar", "-I", "zstd", "-xf", archive, "-C", self.source, "--strip-components=1", *members)


class SampleTree(Tree):
    """Some of the machine's own files, then with a few changed, gone and new: for a quick look at every step."""

    name = "sample"
    needed_bytes = 2 * GIB

    def __init__(self, source: Path):
        super().__init__(source)
        self.title = f"{SAMPLE_BYTES // MIB} MiB of the system's files"
        self.files: list[Path] = []

    def prepare(self, cache, scratch):
        total_bytes = 0
        for origin in SAMPLE_SOURCES:
            for folder, folders, names in os.walk(origin):
                folders.sort()
                for path in (Path(folder) / name for name in sorted(names)):
                    if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                        continue
                    size_bytes = path.stat().st_size
                    if total_bytes + size_bytes > SAMPLE_BYTES or len(self.files) == SAMPLE_FILES:
                        continue
                    total_bytes += size_bytes
                    self.files.append(path)
        if total_bytes < SAMPLE_BYTES // 4:
            raise SetupError(f"the system has only {total_bytes // MIB} MiB of files to make a sample of")

    def place_first(self):
        self.empty()
        for path in self.files:
            copy = self._copy_of(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)

    def place_next(self):
        for path in self.files[::SAMPLE_CHANGE_STRIDE]:
            with self._copy_of(path).open("ab") as copy:
                copy.write(b"changed\n")
        for path in self.files[1::SAMPLE_CHANGE_STRIDE]:
            self._copy_of(path).unlink()
        (self.source / "new").write_bytes(random.Random(CHANGE_SEED).randbytes(SAMPLE_NEW_BYTES))

    def _copy_of(self, path: Path) -> Path:
        return self.source / path.relative_to("/")


class ImageTree(Tree):
    """A sparse ext4 image of /usr/share; then with scattered small changes and one new stretch in a hole.

    The small changes fall on data, where each costs a tool the chunk around it, or, with `anywhere`, also into holes,
    where the chunk around it is nearly free.
    """

    name = "image"
    holes = True

    def __init__(self, source: Path, small: bool, anywhere: bool):
        super().__init__(source)
        self.anywhere = anywhere
        self.small = small
        self.image_bytes = 256 * MIB if small else 3 * GIB
        self.content_limit_bytes = 112 * MIB if small else 2300 * MIB
        self.overwrites = 40 if small else 400
        self.new_bytes = 8 * MIB if small else 64 * MIB
        self.changed_bytes = self.overwrites * CHANGE_BYTES + self.new_bytes
        self.needed_bytes = GIB if small else 6 * GIB
        self.title = "sparse ext4 image"
        self.pristine: Path | None = None

    @property
    def image(self) -> Path:
        """The one file of this tree."""
        return self.source / "disk.img"

    def prepare(self, cache, scratch):
        folder = cache / "image"
        folder.mkdir(parents=True, exist_ok=True)
        content = self._choose_content()
        # Kept between runs: mkfs.ext4 copies the change times of inodes, which no two copies of a file share.
        self.pristine = folder / f"{self.image_bytes // MIB}-{listing_digest(content)}.img"
        if not self.pristine.exists():
            for outdated in folder.glob(f"{self.image_bytes // MIB}-*.img"):
                outdated.unlink()
            self._build(content, scratch, self.pristine)
        data_mib = self.pristine.stat().st_blocks * 512 // MIB
        self.title = (
            f"sparse {self.image_bytes // MIB} MiB ext4 image of {IMAGE_SOURCE} ({data_mib} MiB allocated), then with "
            f"{self.overwrites} random changes of {CHANGE_BYTES // 1024} KiB "
            f"{'anywhere in it' if self.anywhere else 'in its data'} and {self.new_bytes // MIB} MiB of new data in a hole "
            f"({self.changed_bytes / 1e6:.1f} MB)"
        )

    def place_first(self):
        self.empty()
        call("cp", "--sparse=always", self.pristine, self.image)

    def place_next(self):
        chance = random.Random(CHANGE_SEED)
        with open(self.image, "r+b") as image:
            extents, holes = data_and_holes(image.fileno())
            new_data = self._new_data_place(extents, holes)
            changeable = [(0, self.image_bytes)] if self.anywhere else extents
            for offset in scattered_places(chance, changeable, self.overwrites, range(new_data, new_data + self.new_bytes)):
                image.seek(offset)
                image.write(chance.randbytes(CHANGE_BYTES))
            image.seek(new_data)
            for _ in range(self.new_bytes // MIB):
                image.write(chance.randbytes(MIB))

    def _new_data_place(self, extents, holes) -> int:
        """Returns the first hole that is large enough, or else the end of the largest data extent."""
        for begin, end in holes:
            aligned = -(-begin // CHANGE_ALIGNMENT) * CHANGE_ALIGNMENT
            if end - aligned >= self.new_bytes:
                return aligned
        return max(extents, key=lambda extent: extent[1] - extent[0])[1] - self.new_bytes

    def _choose_content(self) -> list[Path]:
        """Returns the entries of /usr/share, in the order of their names, that still fit."""
        chosen, taken_bytes = [], 0
        for entry in sorted(IMAGE_SOURCE.iterdir()):
            size_bytes = int(call("du", "-s", "-B1", entry).split()[0])
            if taken_bytes + size_bytes <= self.content_limit_bytes:
                chosen.append(entry)
                taken_bytes += size_bytes
        return chosen

    def _build(self, content: list[Path], scratch: Path, image: Path) -> None:
        copy, unfinished = scratch / "image-content", image.with_suffix(".part")
        copy.mkdir()
        unfinished.unlink(missing_ok=True)
        # Sorted, so that the order in which mkfs.ext4 reads the copy, and with it the layout, is the same everywhere.
        pack = ["tar", "-C", IMAGE_SOURCE, "--sort=name", "--ignore-failed-read", "-cf", "-", *(entry.name for entry in content)]
        with subprocess.Popen([os.fspath(word) for word in pack], stdout=subprocess.PIPE) as packing:
            subprocess.run(["tar", "-C", copy, "-xf", "-"], stdin=packing.stdout, check=True)
        with open(unfinished, "wb") as file:
            file.truncate(self.image_bytes)
        entries = sum(len(folders) + len(files) for _, folders, files in os.walk(copy))
        call(
            system_program("mkfs.ext4", "e2fsprogs"), "-q", "-F", "-d", copy, "-U", IMAGE_UUID, "-L", "bench", "-b", "4096",
            "-N", max(32768, entries * 5 // 4),
            "-E", f"hash_seed={IMAGE_UUID},lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
            unfinished,
            environment={**os.environ, "E2FSPROGS_FAKE_TIME": IMAGE_TIME},
        )
        call("fallocate", "--dig-holes", unfinished)
        unfinished.rename(image)
        shutil.rmtree(copy)


class ScaleTree(Tree):
    """Very many very small files: what costs memory per file shows here."""

    name = "scale"

    def __init__(self, source: Path, files: int):
        super().__init__(source)
        self.files = files
        # A page, an inode and a name for each file, in the source and in the restored copy.
        self.needed_bytes = files * 12 * 1024 + GIB // 4
        self.title = f"{files:,} small files, then with every {SCALE_CHANGE_STRIDE}th changed"

    def place_first(self):
        self.empty()
        for number in range(self.files):
            folder = self.source / f"{number // SCALE_FILES_PER_FOLDER:05}"
            if number % SCALE_FILES_PER_FOLDER == 0:
                folder.mkdir()
            self._write(number, "first")

    def place_next(self):
        for number in range(0, self.files, SCALE_CHANGE_STRIDE):
            self._write(number, "next")

    def _write(self, number: int, version: str) -> None:
        path = f"{self.source}/{number // SCALE_FILES_PER_FOLDER:05}/{number:07}.txt"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(descriptor, f"{version} version of file {number}\n".encode() * (1 + number % 8))
        os.close(descriptor)


def debian_versions(package: str) -> list[str]:
    """Returns the versions of a package in the archive, oldest first."""
    rows = (line.split("|") for line in call("apt-cache", "madison", package).splitlines())
    listed = {row[1].strip() for row in rows if len(row) == 3 and row[2].endswith(" Packages")}
    if not listed:
        raise SetupError(f"apt knows no {package}\nhint: apt-get update")

    def order(one: str, other: str) -> int:
        older = subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode == 0
        return -1 if older else 1

    return sorted(listed, key=functools.cmp_to_key(order))


def kernel_archive(folder: Path, scratch: Path, version: str) -> Path:
    """Returns the source of one version as .tar.zst, which unpacks ten times faster than Debian's .tar.xz."""
    archive = folder / f"{LINUX_PACKAGE}-{version}.tar.zst"
    if archive.exists():
        return archive
    packages = list(folder.glob(f"{LINUX_PACKAGE}_{version.replace(':', '%3a')}_*.deb"))
    if not packages:
        call("apt-get", "download", f"{LINUX_PACKAGE}={version}", folder=folder)
        packages = list(folder.glob(f"{LINUX_PACKAGE}_{version.replace(':', '%3a')}_*.deb"))
    unpacked, unfinished = scratch / "package", archive.with_suffix(".part")
    call("dpkg", "-x", packages[0], unpacked)
    compressed = unpacked / "usr" / "src" / f"{LINUX_PACKAGE}.tar.xz"
    call("bash", "-o", "pipefail", "-c", 'xz -dc "$0" | zstd -q -f -3 -T2 -o "$1"', compressed, unfinished)
    unfinished.rename(archive)
    packages[0].unlink()
    shutil.rmtree(unpacked)
    return archive


def listing_digest(content: list[Path]) -> str:
    """Returns a name for what the files are now: changes when any of them is replaced."""
    digest = hashlib.sha256()
    for top in content:
        for folder, folders, files in os.walk(top):
            folders.sort()
            for name in sorted(files):
                status = os.lstat(os.path.join(folder, name))
                digest.update(os.fsencode(f"{folder}/{name}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    return digest.hexdigest()[:16]


def data_and_holes(descriptor: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Returns the data extents and the holes of a file as (begin, end)."""
    size_bytes = os.fstat(descriptor).st_size
    extents, holes, position = [], [], 0
    while position < size_bytes:
        try:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: no data after `position`
            begin = size_bytes
        if begin > position:
            holes.append((position, begin))
        if begin < size_bytes:
            position = os.lseek(descriptor, begin, os.SEEK_HOLE)
            extents.append((begin, position))
        else:
            position = size_bytes
    return extents, holes


def scattered_places(chance: random.Random, extents: list[tuple[int, int]], count: int, reserved: range) -> list[int]:
    """Returns `count` aligned offsets inside the extents, whose changes touch neither each other nor what is reserved."""
    starts = [
        offset
        for begin, end in extents
        for offset in range(-(-begin // CHANGE_ALIGNMENT) * CHANGE_ALIGNMENT, end - CHANGE_BYTES + 1, CHANGE_ALIGNMENT)
    ]
    places: list[int] = []
    taken: set[int] = set()
    while len(places) < count:
        offset = chance.choice(starts)
        blocks = range(offset, offset + CHANGE_BYTES, CHANGE_ALIGNMENT)
        if taken.isdisjoint(blocks) and (blocks.start >= reserved.stop or blocks.stop <= reserved.start):
            taken.update(blocks)
            places.append(offset)
    return places


def call(*words, folder: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Runs a helper program that must succeed; returns what it printed."""
    command = [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in words]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as problem:
        raise SetupError(f"{command[0]} does not run: {problem}") from problem
    if done.returncode != 0:
        raise SetupError(f"{command[0]} failed with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
