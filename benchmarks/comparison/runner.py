"""One measured command after the other, each kept so that an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEASURE = Path(__file__).with_name("measure.py")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
LAST_LINES = 15


class BenchmarkError(Exception):
    """Reason to stop the comparison, in words for the user."""


@dataclass(frozen=True)
class Measured:
    """Cost of one command.

    Attributes
    ----------
    start_time : float
        Seconds since 1970, as the times of files are.
    seconds, cpu_seconds : float
        Wall clock, and processor time over all cores.
    peak_memory_MB : float
        Most resident memory of the process, files mapped into it included.
    load_average : float
        Of the machine at the end; much more than the threads in use means that others worked on it.
    lines : tuple of (float, str)
        What it printed, and when (seconds since the start).
    """

    start_time: float
    seconds: float
    cpu_seconds: float
    peak_memory_MB: float
    load_average: float
    lines: tuple[tuple[float, str], ...]

    def seconds_until(self, path: Path) -> float:
        """Seconds from the start until a file was written."""
        return path.stat().st_mtime - self.start_time


@dataclass(frozen=True)
class Machine:
    """How commands are run.

    Attributes
    ----------
    threads : int or None
        Of the numerical libraries; their own choice when None.
    use_gpu : bool
        Whether commands see the GPUs.
    """

    threads: int | None
    use_gpu: bool

    def environment(self, own_packages: bool) -> dict[str, str]:
        """Return the environment of a command; without this program's packages for a program of others."""
        variables = dict(os.environ, PYTHONUNBUFFERED="1")
        if self.threads is not None:
            variables.update(dict.fromkeys(THREAD_VARIABLES, str(self.threads)))
        if not self.use_gpu:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        if not own_packages:
            variables.pop("PYTHONPATH", None)
            variables.pop("PYTHONHOME", None)
        return variables

    def run(
        self, command: list[str], directory: Path, name: str, *, cwd: Path, product: Path, own_packages: bool = True
    ) -> Measured:
        """Run a command and measure it, or read what an earlier run of the same command measured.

        Parameters
        ----------
        command : list of str
        directory : Path
            Where ``name``.json and ``name``.txt (the log) are kept.
        name : str
        cwd : Path
        product : Path
            Result without which an earlier run does not count.
        own_packages : bool
            Whether the command is a part of this program.

        Raises
        ------
        BenchmarkError
            When the command fails.
        """
        directory.mkdir(parents=True, exist_ok=True)
        record, log = directory / f"{name}.json", directory / f"{name}.txt"
        done = read_record(record)
        if done is not None and done.get("command") == command and product.exists():
            print(f"  {name}: measured before", flush=True)
        else:
            record.unlink(missing_ok=True)
            print(f"  {name}: {' '.join(command)}", flush=True)
            wrapped = [sys.executable, "-I", str(MEASURE), str(record), str(log), *command]
            code = subprocess.run(wrapped, cwd=cwd, env=self.environment(own_packages), check=False).returncode
            if code != 0:
                tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-LAST_LINES:]) if log.exists() else ""
                raise BenchmarkError(f"{name} failed: {' '.join(command)}\n{tail}\nThe whole log is {log}")
            done = json.loads(record.read_text(encoding="utf-8"))
            print(f"  {name}: {done['seconds']:.1f} s, {done['peak_memory_MB']:.0f} MB", flush=True)
        return Measured(
            done["start_time"], done["seconds"], done["cpu_seconds"], done["peak_memory_MB"], done["load_average"],
            tuple(_line(text) for text in log.read_text(encoding="utf-8").splitlines()),
        )  # fmt: skip


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what a file of JSON holds; None when there is none or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _line(text: str) -> tuple[float, str]:
    seconds, _, rest = text.strip().partition(" ")
    return float(seconds), rest


def fresh_directory(path: Path) -> Path:
    """Remove what an earlier, unfinished or different run left."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
