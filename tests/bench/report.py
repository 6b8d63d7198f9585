"""The results as JSON and as the generated part of docs/benchmarks.md."""

import dataclasses
from pathlib import Path

from limits import Verdict
from results import Results, Run, Step

MIB = 1 << 20

NEW_DOCUMENT = """# Benchmarks

Every run of `tests/bench/compare --write` replaces what stands between the markers of its kind, and nothing else.
"""


def as_json(conditions: dict, judged: list[tuple[Results, list[Verdict]]]) -> dict:
    """Returns everything that was measured, each run of it, as one document."""
    return {
        "schema": 1,
        **conditions,
        "trees": [
            {
                "name": results.tree,
                "title": results.title,
                "changed_bytes": results.changed_bytes,
                "steps": [
                    _step_as_json(results, step, tool)
                    for step in results.steps
                    for tool in results.tools
                    if results.measured(tool, step)
                ],
                "limits": [
                    {**dataclasses.asdict(verdict), "step": verdict.step.value, "ratio": verdict.ratio} for verdict in verdicts
                ],
            }
            for results, verdicts in judged
        ],
    }


def _step_as_json(results: Results, step: Step, tool: str) -> dict:
    medians = {
        "wall_seconds": "wall",
        "cpu_seconds": "cpu",
        "peak_bytes": "memory",
        "repository_bytes": "size",
        "added_bytes": "added",
    }
    return {
        "step": step.value,
        "tool": tool,
        "median": {key: results.median(tool, step, measure) for key, measure in medians.items()},
        "runs": [_run_as_json(run) for run in results.runs(tool, step)],
    }


def _run_as_json(run: Run) -> dict:
    flat = dataclasses.asdict(run)
    return {**flat.pop("cost"), **flat}


def as_markdown(conditions: dict, judged: list[tuple[Results, list[Verdict]]]) -> str:
    """Returns the tables, without the markers around them."""
    parts = [_conditions_as_markdown(conditions)]
    for results, verdicts in judged:
        parts.append(f"### {results.title[0].upper()}{results.title[1:]}")
        parts.append(_figures_table(results))
        if verdicts:
            parts.append(_limits_table(verdicts))
        parts.extend(_troubles(results))
    return "\n\n".join(parts)


def _conditions_as_markdown(conditions: dict) -> str:
    machine, options = conditions["machine"], conditions["options"]
    lines = [
        f"## {'Side by side' if options['scale_files'] is None else 'Very many files'}, {conditions['date'][:10]}",
        "",
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB of memory, {machine['system']}; data, "
        f"repositories and targets on {machine['filesystem']}; load average {machine['load_before']} before, "
        f"{machine['load_after']} after. Median of {options['runs']} "
        f"{'run' if options['runs'] == 1 else 'runs (lowest to highest in brackets)'}, tools in turn within each step.",
        "",
    ]
    if options["small"]:
        lines += ["**A smoke run (`--small`): it shows that everything works; its figures are too short to compare.**", ""]
    lines += [
        f"- {name}{' ' + tool['version'] if tool['version'] else ''}: {tool['note']}" for name, tool in conditions["tools"].items()
    ]
    lines += [
        "",
        "CPU is user plus system time. Memory is the largest resident set of the tool's largest process, no less than the "
        "7 MiB or so of the process that starts it. Size is the repository's allocated blocks, caches outside of it not "
        "counted; added is what the step changed about it. Every restored tree is compared with its source: names, types, "
        "sizes, bytes, nanosecond times, modes, owners, links, and on the image allocated blocks.",
    ]
    return "\n".join(lines)


def _figures_table(results: Results) -> str:
    rows = [
        "| step | tool | wall s | CPU s | peak MiB | size MiB | added MiB | restored tree |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for step in results.steps:
        title = step.title
        for tool in results.tools:
            if not results.measured(tool, step):
                continue
            rows.append(f"| {title} | {tool} | {_figures(results, step, tool)} |")
            title = ""
    return "\n".join(rows)


def _figures(results: Results, step: Step, tool: str) -> str:
    runs, failures = results.runs(tool, step), results.failures(tool, step)
    if failures:
        return f"failed in {len(failures)} of {len(runs)} | | | | | "
    walls = [run.cost.wall_seconds for run in runs]
    spread = f" ({min(walls):.2f}–{max(walls):.2f})" if len(walls) > 1 else ""
    cells = [
        f"{results.median(tool, step, 'wall'):.2f}{spread}",
        f"{results.median(tool, step, 'cpu'):.2f}",
        f"{results.median(tool, step, 'memory') / MIB:.0f}",
        f"{results.median(tool, step, 'size') / MIB:.1f}" if runs[0].repository_bytes else "",
        # Adding zero turns the -0.0 of a few bytes less into 0.0.
        f"{round(results.median(tool, step, 'added') / MIB, 2) + 0.0:+.2f}" if runs[0].repository_bytes else "",
        _restored(runs) if step in (Step.RESTORE, Step.RESTORE_SPARSE) else "",
    ]
    return " | ".join(cells)


def _restored(runs: list[Run]) -> str:
    mismatches = sorted({run.mismatch for run in runs if run.mismatch is not None})
    return f"differs: {'; '.join(mismatches)}" if mismatches else "identical"


def _limits_table(verdicts: list[Verdict]) -> str:
    rows = [
        "| step | measure | keepwell | against | its figure | ratio | limit | verdict |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for verdict in verdicts:
        cells = [
            verdict.step.title,
            {"memory": "peak memory", "size": "repository", "added": "bytes added", "identical": "restored tree"}.get(
                verdict.measure, "wall"
            ),
            _quantity(verdict.measure, verdict.keepwell),
            verdict.rival,
            _quantity(verdict.measure, verdict.rival_value),
            "" if verdict.ratio is None else f"{verdict.ratio:.2f}",
            "for information" if verdict.step is Step.RESTORE_SPARSE else _limit(verdict),
            {True: "met", False: "**not met**", None: ""}[verdict.met],
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _quantity(measure: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f} s" if measure == "wall" else f"{value / MIB:.1f} MiB"


def _limit(verdict: Verdict) -> str:
    return "identical" if verdict.limit is None else f"{verdict.limit:.2f}"


def _troubles(results: Results) -> list[str]:
    """Returns failures and differences in full, below the table that can only hint at them."""
    lines = []
    for step in results.steps:
        for tool in results.tools:
            runs = results.runs(tool, step)
            lines += [f"- {tool}, {step.title}: failed: {_one_line(text)}" for text in sorted(set(results.failures(tool, step)))]
            examples = next((run.examples for run in runs if run.examples), [])
            if examples:
                lines.append(f"- {tool}, {step.title}, differs, for example: {_one_line('; '.join(examples))}")
    return ["\n".join(lines)] if lines else []


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400].replace("|", "\\|")


def write_document(document: Path, kind: str, section: str) -> None:
    """Replaces what is between the markers of this kind ("compare" or "scale"); adds them at the end when there are none."""
    begin, end = f"<!-- {kind}:begin -->", f"<!-- {kind}:end -->"
    text = document.read_text() if document.exists() else NEW_DOCUMENT
    if begin not in text or end not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(f"{before}{begin}\n{section}\n{end}{after}")
