"""What Keepwell has to reach against the fastest peer of the same run, and whether it did."""

from dataclasses import dataclass

from results import Results, Step

# Wall time against the fastest of restic, Borg and rustic, per tree. "A tenth better" would be lost in the noise of a
# shared machine; these factors are not.
WALL_LIMITS = {
    "linux": {
        Step.INITIAL: 0.35,
        Step.UNCHANGED: 0.15,
        Step.NEXT: 0.25,
        Step.RESTORE: 0.50,
        Step.CHECK: 0.40,
        Step.PRUNE: 0.40,
    },
    "image": {
        Step.INITIAL: 0.35,
        Step.UNCHANGED: 0.30,
        Step.NEXT: 0.35,
        Step.RESTORE: 0.20,
        Step.CHECK: 0.40,
        Step.PRUNE: 0.50,
    },
}

# Borg is left out: Python's own memory would make this limit an easy one.
MEMORY_RIVALS = ["restic", "rustic"]

# Bytes added against the bytes that changed, where a tree knows them exactly.
CHANGED_BYTES_FACTOR = 1.10

# What a look at every step allows on any machine, however busy: twice the time of the fastest peer. Differences below this many seconds are
# those of starting a program.
SMOKE_WALL_LIMIT = 2.0
SMOKE_NOISE_SECONDS = 0.25

SCALE_MEMORY_BYTES = 300 * (1 << 20)


@dataclass(frozen=True)
class Verdict:
    """One limit, the figures it is about, and whether it is met; `met` is None where it could not be told."""

    step: Step
    measure: str  # "wall", "memory", "size", "added" or "identical"
    keepwell: float | None
    rival: str
    rival_value: float | None
    limit: float | None  # the highest allowed keepwell / rival value; None for a row that only informs
    met: bool | None

    @property
    def ratio(self) -> float | None:
        """Keepwell's figure as a part of the rival's."""
        if self.keepwell is None or not self.rival_value:
            return None
        return self.keepwell / self.rival_value


def judge(results: Results) -> list[Verdict]:
    """Returns a verdict for every limit that belongs to the tree and to a reported step."""
    if results.tree == "scale":
        return [verdict for step in results.steps for verdict in [_scale_memory(results, step)] if verdict is not None]
    verdicts = []
    for step in results.steps:
        if step in WALL_LIMITS[results.tree]:
            verdicts.append(_against_best(results, step, "wall", results.peers, WALL_LIMITS[results.tree][step]))
            rivals = [peer for peer in results.peers if peer in MEMORY_RIVALS]
            verdicts.append(_against_best(results, step, "memory", rivals, 1.0))
        if step is Step.INITIAL:
            verdicts.append(_against_best(results, step, "size", results.peers, 1.0, strictly=True))
        if step is Step.NEXT:
            verdicts.append(_added(results))
        if step is Step.RESTORE:
            verdicts.append(_identical(results))
        if step is Step.RESTORE_SPARSE:
            verdicts.append(_sparse(results))
    return verdicts


def too_slow(results: Results) -> list[Verdict]:
    """Returns the steps in which Keepwell takes more than the smoke run allows, or failed, or had no peer to be compared with."""
    missed = []
    for step in results.steps:
        keepwell = results.median("keepwell", step, "wall")
        rival, value = results.best(results.peers, step, "wall")
        met = (
            keepwell is not None
            and value is not None
            and keepwell <= max(SMOKE_WALL_LIMIT * value, value + SMOKE_NOISE_SECONDS)
            and not any(run.mismatch for run in results.runs("keepwell", step))
        )
        if not met:
            missed.append(Verdict(step, "wall", keepwell, rival, value, SMOKE_WALL_LIMIT, False))
    return missed


def _against_best(
    results: Results, step: Step, measure: str, rivals: list[str], limit: float, strictly: bool = False
) -> Verdict:
    """Compares with the lowest figure of the rivals that did the step."""
    keepwell = results.median("keepwell", step, measure)
    rival, value = results.best(rivals, step, measure)
    if value is None or not results.measured("keepwell", step):
        met = None
    elif keepwell is None:
        met = False
    else:
        met = keepwell < limit * value if strictly else keepwell <= limit * value
    return Verdict(step, measure, keepwell, rival, value, limit, met)


def _added(results: Results) -> Verdict:
    """Compares the bytes added by the next version with the changed bytes, or else with the best peer."""
    if results.changed_bytes is None:
        return _against_best(results, Step.NEXT, "added", results.peers, 1.0)
    keepwell = results.median("keepwell", Step.NEXT, "added")
    met = None
    if results.measured("keepwell", Step.NEXT):
        met = keepwell is not None and keepwell <= CHANGED_BYTES_FACTOR * results.changed_bytes
    return Verdict(Step.NEXT, "added", keepwell, "changed bytes", results.changed_bytes, CHANGED_BYTES_FACTOR, met)


def _identical(results: Results) -> Verdict:
    """Requires that no restore of Keepwell differed from its source."""
    met = None
    if results.measured("keepwell", Step.RESTORE):
        runs = results.runs("keepwell", Step.RESTORE)
        met = all(run.failure is None and run.mismatch is None for run in runs)
    return Verdict(Step.RESTORE, "identical", None, "source", None, None, met)


def _sparse(results: Results) -> Verdict:
    """Sets Keepwell's ordinary restore beside the peers' sparse one; informs, decides nothing."""
    keepwell = results.median("keepwell", Step.RESTORE, "wall")
    rival, value = results.best(results.peers, Step.RESTORE_SPARSE, "wall")
    return Verdict(Step.RESTORE_SPARSE, "wall", keepwell, rival, value, None, None)


def _scale_memory(results: Results, step: Step) -> Verdict | None:
    """Holds the peak memory of a step on very many files against a fixed ceiling."""
    if not results.measured("keepwell", step):
        return None
    keepwell = results.median("keepwell", step, "memory")
    met = keepwell is not None and keepwell <= SCALE_MEMORY_BYTES
    return Verdict(step, "memory", keepwell, "ceiling", SCALE_MEMORY_BYTES, 1.0, met)
