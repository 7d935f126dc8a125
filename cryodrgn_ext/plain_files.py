"""Files of our own: arrays in .npz and plain values in .json, never pickles; what is wrong with one is one sentence."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_path, atomic_write_text
from cryodrgn_ext.errors import CryodrgnExtError, InputError

_FAULTS: tuple[type[Exception], ...] = (
    OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def readable(
    path: str | Path,
    remedy: str,
    *,
    missing: str | None = None,
    error: type[CryodrgnExtError] = InputError,
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn what goes wrong while the block reads a file, or makes sense of what it read, into one sentence.

    Parameters
    ----------
    path : path-like
        The file, which the sentence names.
    remedy : str
        What the user can do when the file is damaged or of other contents: "delete it and continue the job".
    missing : str, optional
        What the user can do when there is no such file; ``remedy`` when omitted.
    error : exception class
        What is raised.
    also : tuple of exception classes
        Further exceptions by which a library says that a file is damaged.

    Raises
    ------
    CryodrgnExtError
        Of the class ``error``.
    """
    try:
        yield
    except FileNotFoundError:
        raise error(f"{path} does not exist: {missing or remedy}.") from None
    except KeyError as fault:
        raise error(f"{path} is damaged or of another kind (it has no {fault}): {remedy}.") from None
    except _FAULTS + also as fault:
        raise error(f"{path} cannot be read ({_reason(fault)}): {remedy}.") from None


def _reason(fault: Exception) -> str:
    reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
    # numpy takes whatever it does not know for a pickle, and says how to load it nevertheless.
    return "it holds no arrays of numbers, and Python objects are not read" if "allow_pickle" in reason else reason


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[np.generic]], *, compress: bool = False, new: bool = False
) -> None:
    """Write a .npz file, atomically; where it must be ``new``, FileExistsError says that there is one."""
    with atomic_path(path, new) as temporary, open(temporary, "wb") as handle:
        if compress:
            np.savez_compressed(handle, allow_pickle=False, **arrays)
        else:
            np.savez(handle, allow_pickle=False, **arrays)


def load_arrays(path: str | Path, *names: str, optional: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """Arrays of a .npz file, all of them or those of these names; to be called within :func:`readable`."""
    with open(path, "rb") as handle:  # of a damaged file that it opens itself, numpy forgets to close the handle
        arrays = np.load(handle, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz file")
        wanted = (*names, *(name for name in optional if name in arrays.files)) if names else arrays.files
        for name in names:
            if name not in arrays.files:
                raise KeyError(name)  # numpy's own message is no name
        return {name: arrays[name] for name in wanted}


def write_json(path: Path, plain: Mapping[str, Any]) -> None:
    """Write plain values by name, atomically."""
    atomic_write_text(path, json.dumps(plain, indent=1) + "\n")


def load_json(path: Path) -> dict[str, Any]:
    """Plain values by name; to be called within :func:`readable`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no values by name")
    return content
