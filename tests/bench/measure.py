"""Measured execution: a step's commands in, their cost out."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

METER = Path(__file__).with_name("meter.py")

# An hour for one command: ten times what the slowest peer needs for the largest tree on a slow disk.
COMMAND_LIMIT_SECONDS = 3600
LOG_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Command:
    """One program call; `folder` is its working directory when the program cares."""

    words: list
    folder: Path | None = None


@dataclass
class Cost:
    """What a step took: times are sums over its commands, the peak is that of its largest process."""

    wall_seconds: float = 0.0
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    peak_bytes: int = 0
    page_faults: int = 0
    context_switches: int = 0

    @property
    def cpu_seconds(self) -> float:
        """User and system time together."""
        return self.user_seconds + self.system_seconds

    def add(self, other: "Cost") -> None:
        """Adds the cost of the command that ran next."""
        self.wall_seconds += other.wall_seconds
        self.user_seconds += other.user_seconds
        self.system_seconds += other.system_seconds
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.page_faults += other.page_faults
        self.context_switches += other.context_switches


@dataclass
class Outcome:
    """The cost of a step and, when a command of it failed, which one and how."""

    cost: Cost = field(default_factory=Cost)
    failure: str | None = None


class Runner:
    """Runs commands one at a time in one environment; their output goes to one log."""

    def __init__(self, log: Path, environment: dict[str, str]):
        self.log = log
        self.environment = environment

    def run(self, commands: list[Command]) -> Outcome:
        """Runs the commands of a step in turn and stops at the first that fails."""
        outcome = Outcome()
        for command in commands:
            cost, failure = self._run_one(command)
            outcome.cost.add(cost)
            if failure is not None:
                outcome.failure = failure
                break
        return outcome

    def _run_one(self, command: Command) -> tuple[Cost, str | None]:
        words = [os.fspath(word) for word in command.words]
        result = self.log.with_suffix(".cost")
        result.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            log.write(f"$ {' '.join(words)}\n".encode())
            log.flush()
            output_begins = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", METER, result, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=command.folder,
                env=self.environment,
                start_new_session=True,
            )
            try:
                code = process.wait(COMMAND_LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                # Reached with a living process at the time limit and at Ctrl-C; its children must not outlive it.
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code == 0:
            return Cost(**json.loads(result.read_text())), None
        reason = f"no end after {COMMAND_LIMIT_SECONDS} s" if code is None else f"exit code {code}"
        return Cost(), f"{Path(words[0]).name}: {reason}: {self._tail(output_begins)}"

    def _tail(self, output_begins: int) -> str:
        """Returns the end of what the last command wrote."""
        with open(self.log, "rb") as log:
            log.seek(max(output_begins, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip() or "no output"


def allocated_bytes(folder: Path) -> int:
    """Returns what a folder takes on disk: allocated blocks, holes not counted, each hard-linked file once."""
    total = 0
    linked = set()
    pending = [os.fspath(folder)] if folder.exists() else []
    while pending:
        directory = pending.pop()
        total += os.lstat(directory).st_blocks * 512
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink > 1:
                    if (status.st_dev, status.st_ino) in linked:
                        continue
                    linked.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total
