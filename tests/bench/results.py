"""What was measured on one tree: every run of every step by every tool, and the medians."""

import statistics
from dataclasses import dataclass, field
from enum import Enum

from measure import Cost


class Step(Enum):
    """The stations of a repository's life, in the order in which they are measured."""

    INITIAL = "initial"
    UNCHANGED = "unchanged"
    NEXT = "next"
    RESTORE = "restore"
    RESTORE_SPARSE = "restore-sparse"
    CHECK = "check"
    PRUNE = "prune"

    @property
    def title(self) -> str:
        """The step in words."""
        return {
            Step.INITIAL: "initial backup",
            Step.UNCHANGED: "unchanged backup",
            Step.NEXT: "next version",
            Step.RESTORE: "full restore",
            Step.RESTORE_SPARSE: "full restore, with the option for holes",
            Step.CHECK: "check, all data read",
            Step.PRUNE: "forget all but the last, prune",
        }[self]


@dataclass
class Run:
    """One execution of one step by one tool."""

    cost: Cost
    repository_bytes: int
    added_bytes: int
    state_bytes: int  # caches and indexes outside the repository
    failure: str | None = None
    mismatch: str | None = None  # how the restored tree differs from its source
    examples: list[str] = field(default_factory=list)

    def figure(self, measure: str) -> float:
        """Returns one of "wall", "cpu", "memory", "size", "added"."""
        return {
            "wall": self.cost.wall_seconds,
            "cpu": self.cost.cpu_seconds,
            "memory": self.cost.peak_bytes,
            "size": self.repository_bytes,
            "added": self.added_bytes,
        }[measure]


class Results:
    """The runs of one tree."""

    def __init__(self, tree: str, title: str, changed_bytes: int | None, steps: list[Step], tools: list[str], peers: list[str]):
        self.tree = tree
        self.title = title
        self.changed_bytes = changed_bytes
        self.steps = steps
        self.tools = tools
        self.peers = peers
        self._runs: dict[tuple[str, Step], list[Run]] = {}

    def add(self, tool: str, step: Step, run: Run) -> None:
        """Keeps one run."""
        self._runs.setdefault((tool, step), []).append(run)

    def runs(self, tool: str, step: Step) -> list[Run]:
        """Returns the runs of a step by a tool, in the order of the repetitions."""
        return self._runs.get((tool, step), [])

    def measured(self, tool: str, step: Step) -> bool:
        """Returns whether the tool was asked to do the step at all."""
        return bool(self.runs(tool, step))

    def failures(self, tool: str, step: Step) -> list[str]:
        """Returns what went wrong in the runs of a step."""
        return [run.failure for run in self.runs(tool, step) if run.failure is not None]

    def median(self, tool: str, step: Step, measure: str) -> float | None:
        """Returns the median of a figure; nothing when the tool does not do the step or failed once."""
        runs = self.runs(tool, step)
        if not runs or self.failures(tool, step):
            return None
        return statistics.median(run.figure(measure) for run in runs)

    def best(self, tools: list[str], step: Step, measure: str) -> tuple[str, float | None]:
        """Returns the tool with the lowest median, and that median."""
        figures = [(value, tool) for tool in tools if (value := self.median(tool, step, measure)) is not None]
        if not figures:
            return "no peer", None
        value, tool = min(figures)
        return tool, value
