"""job.yaml: what was done, with which settings, versions, seed and inputs."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cryodrgn_ext import __version__
from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.settings import Settings

#: Patterns of files that jobs write at the top of their result directory.
REPLACED = (
    "particles.star", "particles.cs", "particles.csg", "map.mrc", "half[12].mrc", "mask.mrc", "vol_*.mrc",
    "reconstructed_*.mrc", "*.pkl",
    "latents.npz", "states.npz", "poses.npz", "states", "volumes", "consensus", "model", "report.html",
)  # fmt: skip
RECORD_NAME = "job.yaml"
RECORDED_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "umap-learn", "mrcfile", "safetensors")


def fingerprint_file(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of an input file.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from None
    return {"path": str(path), "absolute_path": str(path.resolve()), "bytes": size, "sha256": digest.hexdigest()}


def fingerprint_files(given: Mapping[str, Path | None]) -> dict[str, Any]:
    """Fingerprint of each file that was given, by name; see :func:`fingerprint_file`."""
    return {name: fingerprint_file(path) for name, path in given.items() if path is not None}


def fingerprint_particles(given: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Fingerprint of one file as :func:`fingerprint_file`, or of several together (a .cs with its passthroughs).

    Parameters
    ----------
    given : Path
        What the user named: a file, or the directory of a CryoSPARC job.
    files : sequence of Path
        The files that were read.

    Returns
    -------
    dict
        As :func:`fingerprint_file`; of several files with ``files``, the fingerprint of each.
    """
    named = [given] if given.is_file() else []
    each = [fingerprint_file(path) for path in dict.fromkeys([*named, *files])]
    if len(each) == 1 and named:
        return each[0]
    return {
        "path": str(given),
        "absolute_path": str(given.resolve()),
        "bytes": sum(one["bytes"] for one in each),
        "sha256": hashlib.sha256("".join(one["sha256"] for one in each).encode()).hexdigest(),
        "files": each,
    }


def is_unchanged(fingerprint: Mapping[str, Any]) -> bool:
    """Whether all files of a fingerprint are still there with the same content."""
    for one in fingerprint.get("files", [fingerprint]):
        path = Path(one["absolute_path"])
        if not path.is_file() or fingerprint_file(path)["sha256"] != one["sha256"]:
            return False
    return True


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages that decide results."""
    found = {"cryodrgn-ext": __version__, "python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_record(
    directory: Path, job: str, status: str, settings: Settings, inputs: Mapping[str, Any], results: Mapping[str, Any]
) -> None:
    """Write job.yaml atomically.

    Parameters
    ----------
    directory : Path
        Result directory.
    job : str
        Name of the job.
    status : str
        "running", "finished", "failed" or "aborted".
    settings : Settings
    inputs : mapping
        Fingerprints of the input files, and what was read from them; plain values.
    results : mapping
        What came out; plain values.
    """
    record = {
        "job": job,
        "status": status,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "project_directory": str(Path.cwd()),
        "versions": versions(),
        "settings": settings.to_mapping(),
        "inputs": dict(inputs),
        "results": dict(results),
    }
    atomic_write_text(directory / RECORD_NAME, _text(record))


def _text(record: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True, width=120)


def end_record(directory: Path, status: str, sentence: str) -> None:
    """Write into the record of a job that ends without a result why it does; nothing where the record is not its own.

    A full disk may be why it ends: then the one word is written over the one that is there, which needs no room.

    Parameters
    ----------
    directory : Path
        Result directory.
    status : str
        "failed" or "aborted", no longer than "running".
    sentence : str
        For ``results``, as ``error``.
    """
    path = directory / RECORD_NAME
    with contextlib.suppress(OSError, InputError):
        record = read_record(directory)
        if record is None or record.get("status") != "running":
            return
        ended = record | {"status": status, "results": {**record["results"], "error": sentence}}
        try:
            atomic_write_text(path, _text(ended))
        except OSError:
            line = b"\nstatus: running\n"
            at = path.read_bytes().index(line)
            with open(path, "rb+") as handle:
                handle.seek(at)
                handle.write(b"\nstatus: " + status.encode().ljust(len("running")) + b"\n")


def read_record(directory: Path) -> dict[str, Any] | None:
    """Read job.yaml; None when there is none.

    Raises
    ------
    InputError
        When it is there but is not what :func:`write_record` wrote.
    """
    path = directory / RECORD_NAME
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise InputError(f"{directory} is a file, but a result directory was expected.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from None
    needed = {"job", "settings", "inputs", "results"}
    if not isinstance(record, dict) or not needed <= set(record) or not isinstance(record["settings"], dict):
        raise InputError(f"{path} is not a job record of cryodrgn-ext.")
    return record


def refuse_other_results(directory: Path, job: str) -> None:
    """Raise InputError when ``directory`` holds the results of another job, whose files this one would overwrite."""
    record = read_record(directory)
    if record is not None and record["job"] != job:
        raise InputError(f"{directory} holds the results of a {record['job']} job: give another directory with --o.")


def refuse_foreign_files(directory: Path) -> None:
    """Raise InputError when a directory without a record has files that a job would replace: they are the user's.

    A job that was killed before its first record has left a checkpoint.
    """
    if (directory / RECORD_NAME).exists() or (directory / "checkpoint").exists():
        return
    there = next((path for name in REPLACED for path in sorted(directory.glob(name))), None)
    if there is not None:
        raise InputError(
            f"--o is {directory}, where {there.name} lies, which is of no job of cryodrgn-ext and could be replaced: "
            "give a new directory, or move it away."
        )


def require_record(directory: Path, *jobs: str) -> dict[str, Any]:
    """Read job.yaml of a result directory of one of certain jobs.

    Raises
    ------
    InputError
        When there is none, or it is of another job.
    """
    record, wanted = read_record(directory), " or ".join(jobs)
    if record is None:
        raise InputError(f"{directory} is not a result directory of a {wanted} job: it has no {RECORD_NAME}.")
    if record["job"] not in jobs:
        raise InputError(f"{directory} holds the results of a {record['job']} job; those of a {wanted} job are needed.")
    return record
