"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext import durable_files
from cryodrgn_ext.durable_files import (
    atomic_directory,
    atomic_path,
    atomic_write_text,
    claim_room,
    make_output_directory,
    remove_abandoned,
)
from cryodrgn_ext.errors import InputError


class Interrupted(Exception):
    """Stands for whatever goes wrong in the middle of writing."""


def test_file_appears_with_its_whole_content(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a.star", "Å\n")
    assert (tmp_path / "a.star").read_bytes() == "Å\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.star"]


def test_letters_of_no_encoding_are_written_as_escapes(tmp_path: Path) -> None:
    """Names of folders are bytes: those from a system of Latin-1 are no UTF-8."""
    atomic_write_text(tmp_path / "report.html", "images of " + os.fsdecode(b"d\xe9j") + "\n")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "images of d\\udce9j\n"


def test_output_directory_whose_name_is_no_text_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--o is .*d\\xe9j, which is no UTF-8 text .* rename the folder"):
        make_output_directory(tmp_path / os.fsdecode(b"d\xe9j"))
    assert not list(tmp_path.iterdir())
    make_output_directory(tmp_path / "déjà")
    assert (tmp_path / "déjà").is_dir()


def test_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "map.mrc"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            assert temporary.suffix == ".mrc"
            temporary.write_text("half of the n")
            raise Interrupted

    with pytest.raises(Interrupted):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        atomic_write_text(tmp_path / "a", "")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_missing_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write_text(tmp_path / "nowhere" / "a", "")


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_is_not_an_ordinary_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / kind
    target.mkdir() if kind == "folder" else os.mkfifo(target)
    before = target.stat().st_ino
    with pytest.raises(OSError, match="ordinary file") as caught:
        atomic_write_text(target, "text")
    assert caught.value.errno == (errno.EISDIR if kind == "folder" else errno.EINVAL)
    assert target.stat().st_ino == before
    assert list(tmp_path.iterdir()) == [target]


def test_directory_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "states"
    target.mkdir()
    (target / "old").write_text("old")
    with atomic_directory(target) as temporary:
        (temporary / "new").write_text("new")
        assert (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_interrupted_directory_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "states"
    target.mkdir()
    (target / "old").write_text("old")

    def write_half() -> None:
        with atomic_directory(target) as temporary:
            (temporary / "new").write_text("new")
            raise Interrupted

    with pytest.raises(Interrupted):
        write_half()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_room_is_claimed_before_a_file_with_holes_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(1024, 1024))
    assert path.stat().st_blocks * 512 < 1 << 22
    claim_room(path)
    assert path.stat().st_blocks * 512 >= 1 << 22
    assert np.load(path).shape == (1024, 1024)


def test_a_disk_without_room_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.npy").touch()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"a\.npy") as caught:
        claim_room(tmp_path / "a.npy", 1 << 20)
    assert caught.value.errno == errno.ENOSPC


def test_what_is_abandoned_is_removed_and_what_is_held_or_young_stays(tmp_path: Path) -> None:
    for name in (".gone.abc.partial.npz", ".young.abc.partial.npz", "partial.npz"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".folder.abc.partial").mkdir()
    (tmp_path / ".folder.abc.partial/file").write_text("half")
    with atomic_path(tmp_path / "file.npz") as file, atomic_directory(tmp_path / "folder") as folder:
        for path in (file, folder, tmp_path / ".gone.abc.partial.npz", tmp_path / ".folder.abc.partial"):
            os.utime(path, (0, 0))
        assert remove_abandoned(tmp_path) == 2
        assert {path.name for path in tmp_path.iterdir()} == {
            ".young.abc.partial.npz", "partial.npz", file.name, folder.name,
        }  # fmt: skip
    assert remove_abandoned(tmp_path) == 0
    assert remove_abandoned(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("code", [errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_systems_that_sync_no_directories_and_change_no_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Windows shares (CIFS), sshfs and others."""

    def refused(*_arguments: object, **_more: object) -> None:
        raise OSError(code, os.strerror(code))

    def of_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refused()

    monkeypatch.setattr(os, "chmod", refused)
    monkeypatch.setattr(os, "fsync", of_directories)
    atomic_write_text(tmp_path / "a.star", "all of it")
    with atomic_directory(tmp_path / "model") as temporary:
        (temporary / "b").write_text("and more")
    assert (tmp_path / "a.star").read_text() == "all of it"
    assert (tmp_path / "model/b").read_text() == "and more"


def test_a_disk_that_fails_is_no_file_system_without_an_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        atomic_write_text(tmp_path / "a.star", "all of it")


def _no_exclusive_rename(_first: Path, _second: Path, _how: int) -> bool:
    return False


def _no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.fixture(params=["renames", "links", "neither"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it knows of the ways to make a name that nothing has."""
    if request.param != "renames":
        monkeypatch.setattr(durable_files, "_rename_at", _no_exclusive_rename)
    if request.param == "neither":
        monkeypatch.setattr(os, "link", _no_links)


@pytest.mark.usefixtures("file_system")
def test_of_those_who_make_a_new_file_at_once_one_succeeds(tmp_path: Path) -> None:
    names, together = [f"writer {number} " * 1000 for number in range(8)], threading.Barrier(8)
    target = tmp_path / "new.npz"

    def write(text: str) -> bool:
        try:
            with atomic_path(target, new=True) as temporary:
                temporary.write_text(text)
                together.wait()  # all have seen that there is nothing
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as writers:
        succeeded = list(writers.map(write, names))
    assert succeeded.count(True) == 1
    assert target.read_text() == names[succeeded.index(True)]
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(FileExistsError), atomic_path(target, new=True):
        pytest.fail("what cannot be kept is not written")
    with atomic_path(target) as temporary:
        temporary.write_text("replaced")
    assert target.read_text() == "replaced"
    assert list(tmp_path.iterdir()) == [target]


def test_a_claim_of_a_program_that_was_killed_bars_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable_files, "_rename_at", _no_exclusive_rename)
    monkeypatch.setattr(os, "link", _no_links)
    claim = tmp_path / ".a.claim.partial"
    claim.touch()
    with pytest.raises(FileExistsError), atomic_path(tmp_path / "a.npz", new=True) as temporary:
        temporary.write_text("whole")
    os.utime(claim, (0, 0))
    with atomic_path(tmp_path / "a.npz", new=True) as temporary:
        temporary.write_text("whole")
    assert [one.name for one in tmp_path.iterdir()] == ["a.npz"]
