"""The contenders: how each tool is told to make, check, restore and thin out its copies."""

from pathlib import Path

from measure import Command
from peers import Program

PASSWORD = "measured-side-by-side"


class Tool:
    """One contender at work in a folder of its own: its repository, its caches, and nothing else.

    A step is a list of commands; `None` means that the contender does not have such a step.
    """

    name: str
    note = ""
    is_peer = False
    is_yardstick = False

    def __init__(self, program: Program | None, place: Path):
        self.program = program
        self.place = place
        self.repository = place / "repository"
        self.state = place / "state"

    def environment(self) -> dict[str, str]:
        """Returns the variables that point the tool at its place."""
        return {}

    def create(self) -> list[Command]:
        """Returns what makes the empty repository; not timed."""
        return []

    def backup(self, source: Path, point: str) -> list[Command] | None:
        """Returns what makes the recovery point `point` of `source`."""
        raise NotImplementedError

    def restore(self, point: str, target: Path) -> list[Command] | None:
        """Returns what restores `point`, which is the latest, into the empty folder `target`."""
        raise NotImplementedError

    def restore_sparse(self, point: str, target: Path) -> list[Command] | None:
        """Returns the restore with the option that makes holes, for a tool that does not do so by itself."""
        del point, target
        return None

    def check(self) -> list[Command] | None:
        """Returns the full check that reads all data."""
        return None

    def prune(self) -> list[Command] | None:
        """Returns what forgets every point but the last and frees what only they needed."""
        return None

    def _call(self, *words, folder: Path | None = None) -> Command:
        assert self.program is not None, "only yardsticks run without a program of their own"
        return Command([self.program.binary, *words], folder)


class Restic(Tool):
    """restic, the most used of the peers."""

    name = "restic"
    note = "repository version 2, compression auto, always encrypts"
    is_peer = True

    def environment(self) -> dict[str, str]:
        return {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(self.state / "restic"),
        }

    def create(self):
        return [self._call("init", "--repository-version", "2")]

    def backup(self, source, point):
        return [self._call("backup", "--quiet", source)]

    def restore(self, point, target):
        return [self._call("restore", "latest", "--target", target)]

    def check(self):
        return [self._call("check", "--read-data")]

    def prune(self):
        return [self._call("forget", "--keep-last", "1", "--prune")]


class Borg(Tool):
    """Borg, the one with the smallest repositories."""

    name = "borg"
    note = "compression zstd,1; --encryption=none, its fastest, since Keepwell's pool is not encrypted either"
    is_peer = True

    def environment(self) -> dict[str, str]:
        return {
            "BORG_REPO": str(self.repository),
            "BORG_BASE_DIR": str(self.state / "borg"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_CHECK_I_KNOW_WHAT_I_AM_DOING": "YES",
        }

    def create(self):
        return [self._call("init", "--encryption=none")]

    def backup(self, source, point):
        return [self._call("create", "--compression", "zstd,1", f"::{point}", source)]

    def restore(self, point, target):
        return [self._call("extract", f"::{point}", folder=target)]

    def restore_sparse(self, point, target):
        return [self._call("extract", "--sparse", f"::{point}", folder=target)]

    def check(self):
        return [self._call("check", "--verify-data")]

    def prune(self):
        return [self._call("prune", "--keep-last", "1"), self._call("compact")]


class Rustic(Tool):
    """rustic, restic's format in Rust."""

    name = "rustic"
    note = (
        "default compression, always encrypts; its prune only marks packs and deletes them in a run 23 hours later, "
        "so its repository does not shrink here"
    )
    is_peer = True

    def environment(self) -> dict[str, str]:
        return {
            "RUSTIC_REPOSITORY": str(self.repository),
            "RUSTIC_PASSWORD": PASSWORD,
            "RUSTIC_CACHE_DIR": str(self.state / "rustic"),
            "RUSTIC_NO_PROGRESS": "true",
        }

    def create(self):
        return [self._call("init")]

    def backup(self, source, point):
        return [self._call("backup", source)]

    def restore(self, point, target):
        return [self._call("restore", "latest", target)]

    def restore_sparse(self, point, target):
        return [self._call("restore", "--sparse", "by-content", "latest", target)]

    def check(self):
        return [self._call("check", "--read-data")]

    def prune(self):
        return [self._call("forget", "--keep-last", "1", "--prune")]


class Keepwell(Tool):
    """Keepwell with everything at its defaults."""

    name = "keepwell"
    note = "defaults"

    def __init__(self, program: Program | None, place: Path):
        super().__init__(program, place)
        self.home = place / "home"
        self.repository = self.home / "pool"
        self.state = self.home

    def create(self):
        return [self._keepwell("init")]

    def backup(self, source, point):
        return [self._keepwell("backup", "--files", source)]

    def restore(self, point, target):
        return [self._keepwell("restore", "latest", "--to", target)]

    def check(self):
        return [self._keepwell("check", "--read-data")]

    def prune(self):
        return [self._keepwell("forget", "--keep-last", "1"), self._keepwell("prune")]

    def _keepwell(self, *words) -> Command:
        return self._call("--home", self.home, *words)


class TarZstd(Tool):
    """What two standard tools need for the same bytes without any deduplication."""

    name = "tar, zstd"
    note = "yardstick: tar | zstd -1 -T2, zstd -dc | tar -x (with holes and nanosecond times)"
    is_yardstick = True

    def backup(self, source, point):
        archive = self.repository / "archive.tar.zst"
        # tar's own format cuts times to seconds; the posix one also keeps two times per file that nobody restores.
        form = "--format=posix --pax-option=delete=atime,delete=ctime"
        pack = f'mkdir -p "$0" && tar {form} -C "$1" -S -cf - . | zstd -q -f -1 -T2 -o "$2"'
        return [shell(pack, self.repository, source, archive)]

    def restore(self, point, target):
        return [shell('zstd -dcq "$0" | tar -C "$1" -xf -', self.repository / "archive.tar.zst", target)]


class Copy(Tool):
    """What the file system needs for a plain copy: the floor for a restore."""

    name = "cp"
    note = "yardstick: cp -a of the source into the empty target"
    is_yardstick = True

    def __init__(self, program: Program | None, place: Path):
        super().__init__(program, place)
        self.source: Path | None = None

    def backup(self, source, point):
        self.source = source
        return None

    def restore(self, point, target):
        return None if self.source is None else [Command(["cp", "-a", f"{self.source}/.", target])]


def shell(script: str, *arguments) -> Command:
    """Returns a pipeline that fails when any part of it fails; the arguments are $0, $1, ..."""
    return Command(["bash", "-o", "pipefail", "-c", script, *arguments])


PEERS = [Restic, Borg, Rustic]
YARDSTICKS = [TarZstd, Copy]
