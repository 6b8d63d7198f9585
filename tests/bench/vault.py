"""The second copy: how long each tool takes to bring its repository to another store, and what comes back from there.

Keepwell's sync stands beside `restic copy` and `rustic copy`: a finished local repository is copied to an empty one on the
same store, a directory or an S3 server on loopback. What only Keepwell promises (few requests, one small file out of a
large point, a list of a thousand points) is measured against fixed ceilings.
"""

import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from measure import Command, Cost, Runner, allocated_bytes
from peers import Program, SetupError, cache_directory
from relay import Relay
from verify import compare_trees, find_restored_root

MIB = 1 << 20
BUCKET = "bench"
REGION = "us-east-1"
SMALL_FILE_BYTES = 10 * 1024
LISTED_POINTS = 1000
MOTO_VERSION = "5.2.5"

WALL_LIMIT = 0.25  # of the fastest peer's copy
MEMORY_LIMIT_BYTES = 200 * MIB
REQUESTS_LIMIT = 3  # of a sync with nothing new
RESTORE_LIMIT = 1.3  # of the restore from the pool
SMALL_FILE_SECONDS = 1.0
SMALL_FILE_FETCHED_BYTES = 8 * MIB
LIST_SECONDS = 2.0
PASSWORD = "measured-side-by-side"


@dataclass
class Traffic:
    """What a store was asked for."""

    puts: int = 0
    gets: int = 0
    others: int = 0

    @property
    def requests(self) -> int:
        """All requests together."""
        return self.puts + self.gets + self.others


@dataclass
class Row:
    """One line of the table: the medians are taken over `costs`."""

    store: str
    step: str
    tool: str
    costs: list[Cost] = field(default_factory=list)
    traffic: Traffic | None = None
    failure: str | None = None
    note: str = ""
    fetched_bytes: int | None = None


class DirectoryStore:
    """A directory as the store of the second copy; counts nothing, since nothing is asked over a wire."""

    name = "directory"

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def environment(self) -> dict[str, str]:
        """Returns what the tools need to know of the store."""
        return {}

    def restic(self, tool: str) -> str:
        """Returns restic's name for an empty place."""
        return str(self.folder / tool)

    def rustic(self, tool: str) -> str:
        """Returns the `[repository]` of rustic's target."""
        return f'repository = "{self.folder / tool}"\n'

    def keepwell(self, tool: str) -> tuple[str, list[str]]:
        """Returns Keepwell's URL and the options of `vault create`."""
        return f"file://{self.folder / tool}", []

    def traffic(self) -> Traffic | None:
        """Returns what was asked since the last call."""
        return None


class S3Store:
    """An S3 server on loopback: moto, which keeps objects in memory and logs every request."""

    name = "S3"

    def __init__(self, folder: Path):
        self.folder = folder
        self.process: subprocess.Popen | None = None
        self.port = 0
        self.log = folder / "moto.log"
        self.position = 0

    def __enter__(self):
        python = install_moto()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(self.log, "wb"),
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SetupError(f"the S3 server did not start: {self.log.read_text()[-500:]}") from None
                time.sleep(0.1)
        subprocess.run(["curl", "--fail", "--silent", "-X", "PUT", f"{self.endpoint}/{BUCKET}"], check=True, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Returns what the tools need to know of the store."""
        return {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}

    def restic(self, tool: str) -> str:
        """Returns restic's name for an empty place."""
        return f"s3:{self.endpoint}/{BUCKET}/{tool}"

    def rustic(self, tool: str) -> str:
        """Returns the `[repository]` of rustic's target."""
        options = {
            "bucket": BUCKET,
            "root": f"/{tool}",
            "endpoint": self.endpoint,
            "region": REGION,
            "access_key_id": "bench",
            "secret_access_key": "bench-secret",
        }
        lines = "".join(f'{key} = "{value}"\n' for key, value in options.items())
        return f'repository = "opendal:s3"\n[repository.options]\n{lines}'

    def keepwell(self, tool: str) -> tuple[str, list[str]]:
        """Returns Keepwell's URL and the options of `vault create`."""
        return f"s3://{BUCKET}/{tool}", ["--endpoint", self.endpoint, "--region", REGION]

    def traffic(self) -> Traffic | None:
        """Returns what was asked since the last call, by the server's own log."""
        text = self.log.read_text(errors="replace")[self.position :]
        self.position += len(text)
        methods = re.findall(r'"(?:\x1b\[\d+m)*([A-Z]+) /', text)
        puts = sum(method in ("PUT", "POST") for method in methods)
        gets = methods.count("GET")
        return Traffic(puts, gets, len(methods) - puts - gets)


def install_moto() -> Path:
    """Returns a Python that has the S3 server, installing it when needed."""
    folder = cache_directory() / "moto"
    python = folder / "bin" / "python"
    if not (folder / MOTO_VERSION).exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", f"moto[s3,server]=={MOTO_VERSION}"], check=True)
        (folder / MOTO_VERSION).touch()
    return python


class VaultCourse:
    """One tree, its local repositories made once, copied to each store."""

    def __init__(self, source: Path, programs: dict[str, Program], folder: Path, report):
        self.source = source
        self.programs = programs
        self.folder = folder
        self.report = report
        self.rows: list[Row] = []
        self.password = folder / "password"
        self.password.write_text(PASSWORD + "\n")

    def prepare(self) -> None:
        """Makes the local copies that are brought to the stores; not timed."""
        self._run({}, "restic", ["-r", self._local("restic"), "init", "--repository-version", "2"])
        self._run({}, "restic", ["-r", self._local("restic"), "backup", "--quiet", self.source])
        self._run({}, "rustic", ["-r", self._local("rustic"), "init"])
        self._run({}, "rustic", ["-r", self._local("rustic"), "backup", self.source])
        self._run({}, "keepwell", ["--home", self._local("keepwell"), "init"])
        self._run({}, "keepwell", ["--home", self._local("keepwell"), "backup", "--files", self.source])

    def measure(self, store, runs: int) -> None:
        """Copies to one store `runs` times, tools in turn, and restores from Keepwell's copy."""
        with store:
            for number in range(runs):
                place = f"run{number}"
                order = ["keepwell", "restic", "rustic"]
                for tool in order[number % 3 :] + order[: number % 3]:
                    getattr(self, f"_copy_{tool}")(store, f"{tool}-{place}")
                self._after_sync(store)

    def list_many(self, runs: int) -> None:
        """Lists the points of a vault that has a thousand."""
        home, source = self.folder / "many", self.folder / "many-source"
        source.mkdir()
        self._run({}, "keepwell", ["--home", home, "init"])
        for number in range(LISTED_POINTS):
            (source / "file").write_text(str(number))
            self._run({}, "keepwell", ["--home", home, "--quiet", "backup", "--files", source])
        store = DirectoryStore(self.folder / "stores")
        credentials = self._vault(store, home, "many")
        self._run({}, "keepwell", ["--home", home, "sync"])
        words = ["--home", self.folder / "blank", "recover", *credentials, "--server", "bench", "--list"]
        for _ in range(runs):
            self._timed(store, "list of 1,000 points", "keepwell", {}, words)

    def _copy_restic(self, store, place: str) -> None:
        environment = store.environment() | {"RESTIC_FROM_PASSWORD_FILE": str(self.password)}
        target, local = ["-r", store.restic(place)], ["--from-repo", self._local("restic")]
        self._run(environment, "restic", [*target, "init", *local, "--copy-chunker-params", "--repository-version", "2"])
        self._timed(store, "copy", "restic", environment, [*target, "copy", *local])

    def _copy_rustic(self, store, place: str) -> None:
        profile = self.folder / "user" / "config" / "rustic" / f"{place}.toml"
        profile.parent.mkdir(parents=True, exist_ok=True)
        repository, _, options = store.rustic(place).partition("[repository.options]")
        text = f'[repository]\n{repository}password = "{PASSWORD}"\n'
        profile.write_text(text + (f"[repository.options]{options}" if options else ""))
        words = ["-r", self._local("rustic"), "copy", "--init", "--target", place]
        self._timed(store, "copy", "rustic", store.environment(), words)

    def _copy_keepwell(self, store, place: str) -> None:
        shutil.rmtree(self.folder / "keepwell-synced", ignore_errors=True)
        shutil.copytree(self._local("keepwell"), self.folder / "keepwell-synced")
        home = self.folder / "keepwell-synced"
        # The configuration names its pool by a path below its home.
        self.credentials = self._vault(store, home, place)
        store.traffic()
        self._timed(store, "copy", "keepwell", store.environment(), ["--home", home, "sync"])

    def _after_sync(self, store) -> None:
        home, environment = self.folder / "keepwell-synced", store.environment()
        self._timed(store, "copy, nothing new", "keepwell", environment, ["--home", home, "sync"])
        target = self.folder / "restored"
        # The first tree of that size finds memory that the machine has not used yet, and pays for it: one that is not timed, so that neither origin does.
        self._run(environment, "keepwell", ["--home", home, "restore", "latest", "--from", "pool", "--to", target])
        for origin in ["pool", "vault"]:
            shutil.rmtree(target, ignore_errors=True)
            words = ["--home", home, "restore", "latest", "--from", origin, "--to", target]
            row = self._timed(store, f"full restore from the {origin}", "keepwell", environment, words)
            if row.failure is None:
                comparison = compare_trees(self.source, find_restored_root(self.source, target), holes=False)
                row.note = comparison.summary() or "identical"
        shutil.rmtree(target, ignore_errors=True)
        small = self._small_file()
        words = ["--home", home, "restore", f"latest:{small}", "--from", "vault", "--to", target]
        row = self._timed(store, "one file of 10 KiB", "keepwell", environment, words)
        shutil.rmtree(target, ignore_errors=True)
        if store.traffic() is not None and row.failure is None:
            row.fetched_bytes = self._fetched(store, environment, small, target)
            row.note = f"{row.fetched_bytes / MIB:.1f} MiB fetched"
            shutil.rmtree(target, ignore_errors=True)

    def _fetched(self, store, environment: dict[str, str], small: Path, target: Path) -> int:
        """Returns what comes from the store when somebody who has nothing recovers one file; not timed."""
        _, credentials, _, passphrase = self.credentials
        with Relay(store.port) as relay:
            through = self.folder / "relayed.vault"
            through.write_text(credentials.read_text().replace(store.endpoint, relay.endpoint))
            words = ["--home", self.folder / "blank", "recover", "--credentials", through, "--passphrase-file", passphrase]
            self._run(environment, "keepwell", [*words, f"latest:{small}", "--to", target])
            return relay.received_bytes

    def _small_file(self) -> Path:
        files = (Path(folder) / name for folder, _, names in os.walk(self.source) for name in names)
        sizes = ((abs(path.lstat().st_size - SMALL_FILE_BYTES), path) for path in files if path.is_file() and not path.is_symlink())
        return min(sizes)[1].relative_to(self.source)

    def _vault(self, store, home: Path, place: str) -> list:
        url, options = store.keepwell(place)
        name = f"{store.name}-{place}"
        credentials, passphrase = self.folder / f"{name}.vault", self.folder / f"{name}.passphrase"
        words = ["--home", home, "vault", "create", url, "--credentials", credentials, *options]
        self._run(store.environment(), "keepwell", words)
        words = ["--home", home, "vault", "register", "--credentials", credentials, "--generate-passphrase", passphrase, "--label", "bench"]
        self._run(store.environment(), "keepwell", words)
        return ["--credentials", credentials, "--passphrase-file", passphrase]

    def _local(self, tool: str) -> str:
        return str(self.folder / "local" / tool)

    def _environment(self, extra: dict[str, str]) -> dict[str, str]:
        home = self.folder / "user"
        home.mkdir(exist_ok=True)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "TMPDIR": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "RESTIC_PASSWORD_FILE": str(self.password),
            "RUSTIC_PASSWORD_FILE": str(self.password),
            "RUSTIC_NO_PROGRESS": "true",
            **extra,
        }

    def _run(self, extra: dict[str, str], tool: str, words: list) -> None:
        runner = Runner(self.folder / f"{tool}.log", self._environment(extra))
        outcome = runner.run([Command([self.programs[tool].binary, *words])])
        if outcome.failure is not None:
            raise SetupError(outcome.failure)

    def _timed(self, store, step: str, tool: str, extra: dict[str, str], words: list) -> Row:
        row = next((row for row in self.rows if (row.store, row.step, row.tool) == (store.name, step, tool)), None)
        if row is None:
            row = Row(store.name, step, tool)
            self.rows.append(row)
        store.traffic()
        runner = Runner(self.folder / f"{tool}.log", self._environment(extra))
        outcome = runner.run([Command([self.programs[tool].binary, *words])])
        row.traffic = store.traffic()
        if outcome.failure is not None:
            row.failure = outcome.failure
            self.report(f"[vault] {store.name:10} {step:28} {tool:9} FAILED: {outcome.failure}")
            return row
        row.costs.append(outcome.cost)
        cost = outcome.cost
        requests = f"  {row.traffic.requests} requests" if row.traffic else ""
        self.report(f"[vault] {store.name:10} {step:28} {tool:9} {cost.wall_seconds:7.2f} s  cpu {cost.cpu_seconds:7.2f} s  {cost.peak_bytes / MIB:6.0f} MiB{requests}")
        return row


def as_markdown(course: VaultCourse, conditions: dict) -> str:
    """Returns the tables, without the markers around them."""
    machine = conditions["machine"]
    parts = [
        f"## The second copy, {conditions['date'][:10]}",
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB of memory, {machine['system']}; repositories, stores "
        f"and targets on {machine['filesystem']}; load average {machine['load_before']} before, {machine['load_after']} after. Median of "
        f"{conditions['options']['runs']} runs, tools in turn. A finished local repository of {conditions['tree']} is copied to an empty one on "
        f"the same store; S3 is moto {MOTO_VERSION} on loopback, whose own work is on the same two cores. Versions: "
        + ", ".join(f"{name} {program.version}" for name, program in course.programs.items())
        + ".",
        _rows_table(course.rows),
        _limits_table(course.rows),
    ]
    failures = [f"- {row.store}, {row.step}, {row.tool}: failed: {row.failure}" for row in course.rows if row.failure]
    return "\n\n".join(parts + (["\n".join(failures)] if failures else []))


def _rows_table(rows: list[Row]) -> str:
    lines = ["| store | step | tool | wall s | CPU s | peak MiB | requests | |", "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for row in rows:
        requests = f"{row.traffic.requests} ({row.traffic.puts} put)" if row.traffic else ""
        if row.costs:
            walls = [cost.wall_seconds for cost in row.costs]
            figures = f"{_median(row, 'wall_seconds'):.2f} ({min(walls):.2f}–{max(walls):.2f}) | {_median(row, 'cpu_seconds'):.2f} | {_median(row, 'peak_bytes') / MIB:.0f}"
        else:
            figures = "failed | | "
        lines.append(f"| {row.store} | {row.step} | {row.tool} | {figures} | {requests} | {row.note} |")
    return "\n".join(lines)


def verdicts(rows: list[Row]) -> list[tuple[str, str, str, bool]]:
    """Returns for every limit: what it is about, Keepwell's figure, the limit, and whether it is met."""
    found = []
    for store in dict.fromkeys(row.store for row in rows):
        row = {(row.step, row.tool): row for row in rows if row.store == store and row.costs}
        copy = row.get(("copy", "keepwell"))
        peers_walls = [(_median(row[key], "wall_seconds"), key[1]) for key in row if key[0] == "copy" and key[1] != "keepwell"]
        if copy and peers_walls:
            fastest, peer = min(peers_walls)
            ratio = _median(copy, "wall_seconds") / fastest
            found.append((f"{store}: copy against {peer}", f"{ratio:.2f} x", f"{WALL_LIMIT} x", ratio <= WALL_LIMIT))
        if copy:
            peak = _median(copy, "peak_bytes")
            found.append((f"{store}: memory of the copy", f"{peak / MIB:.0f} MiB", f"{MEMORY_LIMIT_BYTES // MIB} MiB", peak <= MEMORY_LIMIT_BYTES))
        again = row.get(("copy, nothing new", "keepwell"))
        if again and again.traffic:
            found.append((f"{store}: copy with nothing new", f"{again.traffic.requests} requests", f"{REQUESTS_LIMIT}", again.traffic.requests <= REQUESTS_LIMIT))
        pool, vault = row.get(("full restore from the pool", "keepwell")), row.get(("full restore from the vault", "keepwell"))
        if pool and vault:
            ratio = _median(vault, "wall_seconds") / _median(pool, "wall_seconds")
            met = ratio <= RESTORE_LIMIT and pool.note == vault.note == "identical"
            found.append((f"{store}: restore from the vault against the pool", f"{ratio:.2f} x", f"{RESTORE_LIMIT} x", met))
        for step, limit in [("one file of 10 KiB", SMALL_FILE_SECONDS), ("list of 1,000 points", LIST_SECONDS)]:
            if (step, "keepwell") in row:
                wall = _median(row[(step, "keepwell")], "wall_seconds")
                found.append((f"{store}: {step}", f"{wall:.2f} s", f"{limit} s", wall <= limit))
        small = row.get(("one file of 10 KiB", "keepwell"))
        if small and small.fetched_bytes is not None:
            met = small.fetched_bytes <= SMALL_FILE_FETCHED_BYTES
            found.append((f"{store}: one file of 10 KiB", f"{small.fetched_bytes / MIB:.1f} MiB fetched", f"{SMALL_FILE_FETCHED_BYTES // MIB} MiB", met))
    return found


def _limits_table(rows: list[Row]) -> str:
    lines = ["| what | keepwell | at most | verdict |", "| --- | ---: | ---: | --- |"]
    for what, figure, limit, met in verdicts(rows):
        lines.append(f"| {what} | {figure} | {limit} | {'met' if met else '**not met**'} |")
    return "\n".join(lines)


def _median(row: Row, figure: str) -> float:
    return statistics.median(getattr(cost, figure) for cost in row.costs)
