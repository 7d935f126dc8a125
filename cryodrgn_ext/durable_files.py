"""Outputs appear whole or not at all: write aside, fsync, rename."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryodrgn_ext.errors import InputError

#: Seconds in which what is new may not be held yet.
YOUNG_S = 60.0
#: Of flock, on file systems without locks: some network ones.
NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE = -100, 1, 2  # of Linux
#: What file systems answer that do not have an operation, or do not let anybody change permissions (CIFS).
NOT_PROVIDED = (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def make_output_directory(directory: Path) -> None:
    """Make the directory that a job writes to, and those above it.

    Raises
    ------
    InputError
        When it is a file, or cannot be made or written to, or its name is no UTF-8 text, which the formats of models
        and reports ask for.
    """
    if not str(directory).isascii():
        try:
            str(directory).encode()
        except UnicodeEncodeError:
            name = os.fsencode(directory).decode(errors="backslashreplace")
            raise InputError(
                f"--o is {name}, which is no UTF-8 text in the locale of this shell: rename the folder, or set LC_ALL "
                "to C.UTF-8."
            ) from None
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--o is {directory}, which is a file: give a directory.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"--o is {directory}, which cannot be made ({reason}): give a directory in a folder that you may write to."
        ) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InputError(f"--o is {directory}, in which you may not write: give another directory.")


def keep_existing(paths: Iterable[Path], overwrite: bool) -> tuple[str, ...]:
    """Keep files that a job is about to replace under numbered names (``x.star.1~``), unless the user says not to.

    The file stays in its place until the new one takes it. Call it when nothing but the writing is left.

    Returns
    -------
    tuple of str
        What to tell the user, one sentence for each file that was there.

    Raises
    ------
    InputError
        When a path is a directory, or a file cannot be kept.
    """
    sentences = []
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a directory, but a file is to be written there: give another name with --o.")
        if overwrite or not path.exists():
            continue
        sentences.append(f"{path} was there already: what was in it is kept as {_kept_copy(path)}.")
    return tuple(sentences)


def _kept_copy(path: Path) -> Path:
    """Copy a file to the first numbered name that is free, and return that name."""
    for number in itertools.count(1):
        kept = path.with_name(f"{path.name}.{number}~")
        try:
            # Made only where nothing is: two runs at once cannot take each other's name.
            os.close(os.open(kept, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        except OSError as error:
            raise _cannot_keep(path, kept, error) from None
        try:
            with atomic_path(kept) as temporary:
                shutil.copyfile(path, temporary)
        except OSError as error:
            kept.unlink(missing_ok=True)
            raise _cannot_keep(path, kept, error) from None
        return kept
    raise AssertionError("unreachable")


def _cannot_keep(path: Path, kept: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} exists already and cannot be kept as {kept} ({(error.strerror or str(error)).lower()}): give "
        "--overwrite to replace it, or another name with --o."
    )


def claim_room(file: str | os.PathLike[str] | int, size: int | None = None) -> None:
    """Claim the disk space of a file before it is filled through a memory map.

    A map of a file with holes kills the process (SIGBUS) where the disk has no room for what is written into it.

    Parameters
    ----------
    file : path-like or int
        A file that exists, or its descriptor, open for writing.
    size : int, optional
        In bytes; that of the file when omitted.

    Raises
    ------
    OSError
        When there is no room.
    """
    with open(file, "rb+", closefd=not isinstance(file, int)) as handle:
        length = os.fstat(handle.fileno()).st_size if size is None else size
        try:
            os.posix_fallocate(handle.fileno(), 0, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise OSError(error.errno, error.strerror, handle.name) from None
            os.ftruncate(handle.fileno(), length)


@contextmanager
def _where_possible() -> Iterator[None]:
    """Do without what the file system does not know: Windows shares and many FUSE mounts sync no directories."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_PROVIDED:
            raise


def _fsync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        with _where_possible():
            os.fsync(fd)
    finally:
        os.close(fd)


def _make_ordinary(path: Path, mode: int) -> None:
    """Give what mkstemp and mkdtemp made private the permissions that an ordinary open() or mkdir() would have."""
    umask = os.umask(0)
    os.umask(umask)
    with _where_possible():  # shares refuse to change permissions, which are the same for all their files
        os.chmod(path, mode & ~umask)


def _hold(descriptor: int) -> bool:
    """Hold what is being written, as long as this process lives; False where another one does, or nobody can."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # also of file systems without locks
        return False
    return True


def knows_locks(directory: Path) -> bool:
    """Whether the file system of a directory knows locks (flock); taken for granted where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_LOCKS
    return True


def remove_abandoned(directory: Path) -> int:
    """Remove what processes that are gone (kill -9, a power cut) have left half-written in a directory.

    What a living process writes is held by it, on whatever machine, and stays; so does what is younger than a minute,
    and all of it where the directory is not ours to write, or its file system knows no locks.

    Returns
    -------
    int
        How many files and folders were removed.
    """
    count = 0
    for path in directory.glob(".*.partial*"):
        try:
            if time.time() - path.stat().st_mtime < YOUNG_S:
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if not _hold(descriptor):
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(descriptor)
        except OSError:
            continue
        count += 1
    return count


def _put_where_nothing_is(temporary: Path, final: Path) -> None:
    """Rename onto a name that nothing has, in one step: of several programs that do it at once, one succeeds.

    Raises
    ------
    FileExistsError
        When something is there.
    """
    if _rename_at(temporary, final, RENAME_NOREPLACE):
        return
    if final.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    try:  # network file systems, which do not know the former, know links
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in (*NOT_PROVIDED, errno.EMLINK, errno.EACCES):
            raise
        _put_after_claim(temporary, final)


def _put_after_claim(temporary: Path, final: Path) -> None:
    """The same on shares without links: who makes the claim beside the file may write it."""
    claim = final.with_name(f".{final.stem}.claim.partial")
    with contextlib.suppress(FileNotFoundError):
        if time.time() - claim.stat().st_mtime > YOUNG_S:  # of a program that was killed within these few steps
            claim.unlink()
    os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        if final.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
        os.replace(temporary, final)
    finally:
        claim.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: str | os.PathLike[str], new: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is fsynced and renamed onto ``path``.

    The temporary file keeps the suffix of ``path`` (writers look at suffixes). On any exception it is
    removed and ``path`` is left as it was.

    Parameters
    ----------
    path : path-like
        The final file. Its directory must exist.
    new : bool
        Whether nothing may be there: neither at first nor when the file is whole, whoever has put it there meanwhile.

    Raises
    ------
    FileExistsError
        When something is there, and ``new`` is asked for.
    OSError
        When the directory is missing or not writable, the disk is full, or ``path`` is there but no ordinary file.
    """
    final = Path(path)
    # Renaming onto a device (/dev/null, as root) would replace the device itself.
    if final.exists() and not final.is_file():
        code = errno.EISDIR if final.is_dir() else errno.EINVAL
        raise OSError(code, "it is not an ordinary file", str(final))
    if new and final.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    fd, name = tempfile.mkstemp(prefix=f".{final.stem}.", suffix=".partial" + final.suffix, dir=final.parent)
    temporary = Path(name)
    try:
        _hold(fd)
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        _make_ordinary(temporary, 0o666)
        if new:
            _put_where_nothing_is(temporary, final)
        else:
            os.replace(temporary, final)
        _fsync_directory(final.parent)
    finally:
        os.close(fd)
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (UTF-8, with escapes for what is not, as names of folders may hold) to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step, where the system can: no moment without ``second``, also for kill -9."""
    return _rename_at(first, second, RENAME_EXCHANGE)


def _rename_at(first: Path, second: Path, how: int) -> bool:
    """Rename in a way that Python has no word for; False where the system or the file system does not do it."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    outcome: int = renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), how)
    return outcome == 0


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; on success it replaces ``path`` as a whole."""
    final = Path(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent))
    held = os.open(temporary, os.O_RDONLY)
    try:
        _hold(held)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        _make_ordinary(temporary, 0o777)
        if not final.exists():
            os.replace(temporary, final)
        elif not _exchange(temporary, final):
            retired = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".old", dir=final.parent))
            os.replace(final, retired / final.name)
            os.replace(temporary, final)
            shutil.rmtree(retired)
        _fsync_directory(final.parent)
    finally:
        os.close(held)
        if temporary.exists():
            shutil.rmtree(temporary)
