"""Shared by the measurements of large particle files: a stopwatch, and a process whose peak of memory is the work's."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the body took."""
    start = time.perf_counter()
    yield
    print(f"  {what:<42}{time.perf_counter() - start:8.2f} s", flush=True)


def print_total(what: str, start: float) -> None:
    """Print the seconds since ``start`` (of ``time.perf_counter``), and the peak of this process's resident memory."""
    total = time.perf_counter() - start
    peak_GB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{what}: total {total:.2f} s, peak resident memory {peak_GB:.2f} GB")


def run(
    program: str,
    description: str | None,
    particles: int,
    generate: Callable[[Path, int], None],
    measure: Callable[[Path], None],
) -> None:
    """Generate in this process, measure in a fresh one: its peak memory is then that of the work alone.

    Parameters
    ----------
    program : str
        File of the calling program, which is called again.
    description : str or None
        For its help.
    particles : int
        How many there are unless ``-n`` says otherwise.
    generate : callable
        Writes files of so many particles into a folder.
    measure : callable
        Works on that folder and prints what it took.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-n", type=int, default=particles, help="number of particles")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with timed(f"generate {arguments.n} particles"):
            generate(directory, arguments.n)
        print(f"  {sum(path.stat().st_size for path in directory.iterdir()) / 1e6:.0f} MB")
        subprocess.run([sys.executable, program, "--measure", str(directory)], check=True)
