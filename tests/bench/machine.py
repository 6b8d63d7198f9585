"""The machine that figures were measured on, as a reader needs it in order to judge them."""

import os
import platform
import subprocess
from pathlib import Path

GIB = 1 << 30


def describe(folder: Path, load_before: float) -> dict:
    """Returns what is to be known of the machine; `folder` is where the data lie, `load_before` the load average before the first run."""
    return {
        "cores": os.cpu_count(),
        "processor": processor_name(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB),
        # The numbers only: what a builder appends to a kernel's version names his workshop.
        "system": f"Linux {platform.release().split('-')[0]}, {platform.machine()}",
        "filesystem": filesystem_kind(folder),
        "load_before": round(load_before, 1),
        "load_after": round(os.getloadavg()[0], 1),
    }


def available_memory_bytes() -> int:
    """Returns the memory that can be had without swapping."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def processor_name() -> str:
    """Returns what the processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def filesystem_kind(folder: Path) -> str:
    """Returns the kind of file system a folder is on."""
    answer = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "an unknown file system"
