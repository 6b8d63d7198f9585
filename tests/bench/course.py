"""The course every tool runs: the steps on one tree, tools in turn within each step, repeated."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from measure import Cost, Runner, allocated_bytes
from results import Results, Run, Step
from tools import Tool
from trees import Tree
from verify import compare_trees, find_restored_root

MIB = 1 << 20
BACKUP_STEPS = [Step.INITIAL, Step.UNCHANGED, Step.NEXT]
RESTORE_STEPS = [Step.RESTORE, Step.RESTORE_SPARSE]


def steps_to_run(reported: list[Step]) -> list[Step]:
    """Returns the reported steps and those they need: a repository, and a second point to restore or to forget one."""
    needed = {Step.INITIAL, *reported}
    if needed.intersection([*RESTORE_STEPS, Step.CHECK, Step.PRUNE]):
        needed.add(Step.NEXT)
    return [step for step in Step if step in needed]


class Course:
    """One tree, several tools, a working folder."""

    def __init__(self, tree: Tree, tools: list[Tool], folder: Path, on_disk: bool):
        self.tree = tree
        self.tools = tools
        self.folder = folder
        self.on_disk = on_disk
        self.target = folder / "restored"

    def run(self, repetition: int, repetitions: int, results: Results) -> None:
        """Runs all steps once; the tool that begins changes from step to step and from repetition to repetition."""
        runners = {tool.name: self._open(tool) for tool in self.tools}
        self.tree.place_first()
        for number, step in enumerate(steps_to_run(results.steps)):
            if step is Step.NEXT:
                self.tree.place_next()
            first = (repetition + number) % len(self.tools)
            for tool in self.tools[first:] + self.tools[:first]:
                run = self._step(tool, step, runners[tool.name])
                if run is None:
                    continue
                progress(f"[{self.tree.name} {repetition + 1}/{repetitions}] {step.value:14} {tool.name:9} {described(run)}")
                if step in results.steps:
                    results.add(tool.name, step, run)
        for tool in self.tools:
            remove(tool.place)
        self.tree.empty()

    def _open(self, tool: Tool) -> Runner:
        """Makes the tool's place and its empty repository."""
        remove(tool.place)
        home = tool.place / "user"
        home.mkdir(parents=True)
        tool.state.mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "TMPDIR": str(home),
            **{f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA", "STATE")},
            **tool.environment(),
        }
        runner = Runner(self.folder / f"{tool.name}.log", environment)
        created = runner.run(tool.create())
        if created.failure is not None:
            progress(f"{tool.name}: no repository: {created.failure}")
        return runner

    def _step(self, tool: Tool, step: Step, runner: Runner) -> Run | None:
        """Runs one step of one tool and verifies what it restored."""
        if step in RESTORE_STEPS:
            remove(self.target)
            self.target.mkdir()
        commands = self._commands(tool, step)
        if commands is None:
            return None
        before = allocated_bytes(tool.repository)
        if self.on_disk:
            # What the tool before has left to be written must not be paid by this one.
            subprocess.run(["sync", "-f", self.folder], check=False)

        outcome = runner.run(commands)

        after = allocated_bytes(tool.repository)
        run = Run(outcome.cost, after, after - before, self._state_bytes(tool, after), outcome.failure)
        if step in BACKUP_STEPS and after == 0 and run.failure is None:
            # Without this a repository looked for in the wrong place would win every comparison of sizes.
            run.failure = f'nothing stored in "{tool.repository.relative_to(tool.place)}"'
        if step in RESTORE_STEPS:
            if run.failure is None:
                self._verify(run)
            remove(self.target)
        return run

    def _commands(self, tool: Tool, step: Step):
        latest = Step.NEXT.value
        if step in BACKUP_STEPS:
            return tool.backup(self.tree.source, step.value)
        if step is Step.RESTORE:
            return tool.restore(latest, self.target)
        if step is Step.RESTORE_SPARSE:
            return tool.restore_sparse(latest, self.target) if self.tree.holes else None
        return tool.check() if step is Step.CHECK else tool.prune()

    def _verify(self, run: Run) -> None:
        restored = find_restored_root(self.tree.source, self.target)
        comparison = compare_trees(self.tree.source, restored, holes=self.tree.holes)
        run.mismatch = comparison.summary()
        run.examples = comparison.examples

    @staticmethod
    def _state_bytes(tool: Tool, repository_bytes: int) -> int:
        state_bytes = allocated_bytes(tool.state)
        return state_bytes - repository_bytes if tool.repository.is_relative_to(tool.state) else state_bytes


def described(run: Run) -> str:
    """Returns one run as a line for people."""
    if run.failure is not None:
        return f"FAILED: {run.failure}"
    cost: Cost = run.cost
    line = f"{cost.wall_seconds:7.2f} s  cpu {cost.cpu_seconds:7.2f} s  {cost.peak_bytes / MIB:6.0f} MiB"
    if run.repository_bytes:
        line += f"  repository {run.repository_bytes / MIB:7.1f} MiB ({round(run.added_bytes / MIB, 2) + 0.0:+.2f})"
    if run.mismatch is not None:
        line += f"  restored tree DIFFERS: {run.mismatch}"
    return line


def progress(line: str) -> None:
    """Tells the person who waits; standard output stays free."""
    print(line, file=sys.stderr, flush=True)


def remove(folder: Path) -> None:
    """Removes a folder and all below it, whatever modes a restore has set there."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=False)
        shutil.rmtree(folder)
