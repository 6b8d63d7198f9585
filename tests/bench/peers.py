"""Finding or installing the programs Keepwell is compared with.

Versions are pinned, because a figure without the version of the peer says nothing. restic is the exception: it is the
one Debian ships, since that is the one administrators have.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BORG_VERSION = "1.4.5"
BORG_BUILD_PACKAGES = ["libacl1-dev", "libssl-dev", "liblz4-dev", "libzstd-dev", "libxxhash-dev", "pkg-config"]
RUSTIC_VERSION = "0.11.4"

# Distributions keep mkfs.ext4 out of an ordinary user's PATH.
SYSTEM_FOLDERS = ["/usr/local/sbin", "/usr/sbin", "/sbin"]


class SetupError(Exception):
    """Something the comparison needs is missing and could not be installed."""


@dataclass(frozen=True)
class Program:
    """An installed program and what it says its version is."""

    binary: Path
    version: str


def cache_directory() -> Path:
    """Returns the folder that keeps installed peers and downloaded sources from run to run."""
    chosen = os.environ.get("KEEPWELL_BENCH_CACHE")
    return Path(chosen).absolute() if chosen else Path.home() / ".cache" / "keepwell-bench"


def system_program(name: str, debian_package: str) -> Path:
    """Returns the path of a program of the system; names the package that brings it when it is missing."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS]))
    if found is None:
        raise SetupError(f'"{name}" is not installed\nhint: apt-get install {debian_package}')
    return Path(found)


def find_restic(cache: Path, install: bool) -> Program:
    """Returns Debian's restic, installing the package when allowed."""
    del cache  # restic belongs to the system
    if shutil.which("restic") is None and install:
        install_debian_packages(["restic"])
    return describe(system_program("restic", "restic"), ["version"])


def find_borg(cache: Path, install: bool) -> Program:
    """Returns the pinned Borg from its own virtual environment, building it from PyPI's source when allowed."""
    folder = cache / "borg"
    binary = folder / "bin" / "borg"
    if not binary.exists():
        refuse_unless(install, "borg", folder)
        install_debian_packages(missing_debian_packages(BORG_BUILD_PACKAGES))
        build([sys.executable, "-m", "venv", "--clear", folder])
        build([folder / "bin" / "pip", "install", "--quiet", f"borgbackup=={BORG_VERSION}"])
    return expect_version(describe(binary, ["--version"]), BORG_VERSION, folder)


def find_rustic(cache: Path, install: bool) -> Program:
    """Returns the pinned rustic, building it from crates.io when allowed (about a quarter of an hour)."""
    folder = cache / "rustic"
    binary = folder / "bin" / "rustic"
    if not binary.exists():
        refuse_unless(install, "rustic", folder)
        build(["cargo", "install", "rustic-rs", "--version", RUSTIC_VERSION, "--locked", "-j1", "--root", folder])
    return expect_version(describe(binary, ["--version"]), RUSTIC_VERSION, folder)


def find_keepwell(binary: Path) -> Program:
    """Returns Keepwell as somebody else has built it."""
    if not binary.exists():
        raise SetupError(f'no keepwell at "{binary}"\nhint: cargo build --release, or name one with --keepwell')
    return describe(binary.absolute(), ["--version"])


def describe(binary: Path, version_arguments: list[str]) -> Program:
    """Asks a program for its version and keeps the first version-like word of the answer."""
    try:
        answer = subprocess.run([binary, *version_arguments], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as problem:
        raise SetupError(f'"{binary}" does not run: {problem}') from problem
    version = re.search(r"\d+\.\d+\S*", answer.stdout + answer.stderr)
    return Program(binary, version.group() if version else "unknown")


def expect_version(program: Program, version: str, folder: Path) -> Program:
    """Refuses an installation left over from another pin."""
    if program.version != version:
        raise SetupError(f'"{program.binary}" is {program.version}, not {version}\nhint: remove "{folder}" and run again')
    return program


def refuse_unless(install: bool, name: str, folder: Path) -> None:
    """Raises when installing was forbidden."""
    if not install:
        raise SetupError(f'{name} is not in "{folder}"\nhint: leave out --no-install')


def missing_debian_packages(packages: list[str]) -> list[str]:
    """Returns those of the packages that dpkg does not know as installed."""
    def installed(package: str) -> bool:
        query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"
    return [package for package in packages if not installed(package)]


def install_debian_packages(packages: list[str]) -> None:
    """Installs packages as root; tells another user what to ask for."""
    if not packages:
        return
    if os.geteuid() != 0:
        raise SetupError(f"missing packages: {' '.join(packages)}\nhint: sudo apt-get install {' '.join(packages)}")
    build(["apt-get", "install", "--yes", "--no-install-recommends", *packages])


def build(command: list) -> None:
    """Runs an installation at low priority, so that it does not disturb whoever shares the machine."""
    words = [str(word) for word in command]
    print(f"installing: {' '.join(words)}", file=sys.stderr, flush=True)
    try:
        subprocess.run(["nice", "-n", "10", *words], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
    except (OSError, subprocess.SubprocessError) as problem:
        raise SetupError(f"{words[0]} failed: {problem}") from problem
