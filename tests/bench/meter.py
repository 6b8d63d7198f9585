"""Runs one command and writes what it used, as JSON, to a file: `python -I -S meter.py RESULT COMMAND...`.

A process of its own, with next to nothing imported: Linux counts the memory a process had *before* exec as part of its
peak, so a command started straight from the comparison would inherit the peak of a well-fed Python. From here it
inherits some 7 MiB, below which no figure can therefore be told.
"""

import os
import sys
import time


def main() -> int:
    """Measures the command of the arguments; returns its exit code, 128 + N when signal N ended it."""
    result, command = sys.argv[1], sys.argv[2:]
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            os.execvp(command[0], command)
        except OSError as problem:
            os.write(2, f"cannot run {command[0]}: {problem}\n".encode())
            os._exit(127)
    # wait4 also counts the children that the command itself has waited for: times as a sum, memory as the largest one.
    _, status, usage = os.wait4(child, 0)
    wall_seconds = time.monotonic() - started
    code = os.waitstatus_to_exitcode(status)
    with open(result, "w") as file:
        file.write(
            f'{{"wall_seconds": {wall_seconds:.6f}, "user_seconds": {usage.ru_utime:.6f}, '
            f'"system_seconds": {usage.ru_stime:.6f}, "peak_bytes": {usage.ru_maxrss * 1024}, '
            f'"page_faults": {usage.ru_minflt + usage.ru_majflt}, '
            f'"context_switches": {usage.ru_nvcsw + usage.ru_nivcsw}}}\n'
        )
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
