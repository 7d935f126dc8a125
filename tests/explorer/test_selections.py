"""Selections on disk: whole or not there; a busy port; the frame of a notebook."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import cryodrgn_ext
from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.engines.base import Heterogeneity, LinearForm
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer import maps
from cryodrgn_ext.explorer.again import Again, Loop, plan
from cryodrgn_ext.explorer.answers import ANSWERS
from cryodrgn_ext.explorer.maps import MapMaker
from cryodrgn_ext.explorer.masked_columns import add_mask, probability
from cryodrgn_ext.explorer.masks import KeptMask
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.serve import explore as serve
from cryodrgn_ext.explorer.serve import listening, opened_sessions
from cryodrgn_ext.explorer.stored_maps import stored_maps
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.options.explore import ExploreSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.chosen_rows import particles_in
from cryodrgn_ext.results.learned_result import read_learned_result
from cryodrgn_ext.results.selections import read_selection_file, selection_path, write_selection
from cryodrgn_ext.workflow.job_result import JobResult
from tests.explorer.conftest import N, Project, running

RUN_PROCESS = Loop.run  # before the stand-in of the tests takes its place


@pytest.mark.parametrize("code", sorted({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}))
def test_a_file_system_without_locks_is_said_once_and_saves_are_whole(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    log, name = io.StringIO(), f"unlocked{code}"
    settings = ExploreSettings(in_results=(project.result,), device="cpu")
    recipe = {"by": "levels", "column": "state", "levels": [0]}
    with opened_sessions(settings, Monitor(log)) as (session,):
        path = session.opened.save(name, recipe, replace=False)
        before = path.read_bytes()
        for _ in range(2):
            session.opened.save(name, recipe, replace=True)
        assert ANSWERS["particles"](session, {"name": name, "format": "star"}).files[0].endswith(f"{name}.star")
        with monkeypatch.context() as patch:
            patch.setattr(np, "savez", cut_short)
            with pytest.raises(OSError, match="No space"):
                session.opened.save(name, {"by": "all"}, replace=True)
    particles = session.opened.result.particles
    assert len(read_selection_file(path, particles).rows) < N
    assert len(path.read_bytes()) == len(before)
    assert not list(path.parent.glob(".*"))
    assert log.getvalue().count("has no locks") == 1


def cut_short(handle, *_, **__) -> None:  # type: ignore[no-untyped-def]
    handle.write(b"PK")
    raise OSError(28, "No space left on device")


def test_a_save_that_is_cut_short_leaves_the_former_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = OpenedResult(project.result)
    path = opened.save("steady", {"by": "levels", "column": "state", "levels": [0]}, replace=False)
    before = path.read_bytes()

    monkeypatch.setattr(np, "savez", cut_short)
    for name in ("steady", "fresh"):
        with pytest.raises(OSError, match="No space"):
            opened.save(name, {"by": "all"}, replace=True)
    assert path.read_bytes() == before
    names = {one.name for one in path.parent.iterdir()}
    assert not any("fresh" in name or "partial" in name for name in names)


#: Saves a selection as the explorer does, in processes of which each is killed at another moment.
KILLED_SAVES = """
import os, signal, sys, zipfile
from pathlib import Path
from cryodrgn_ext.explorer.opened_result import OpenedResult

opened = OpenedResult(Path(sys.argv[1]))
# While the arrays are written, once they are, and before they take the place of the former ones.
for owner, what in (zipfile.ZipFile, "close"), (os, "fsync"), (os, "replace"):
    child = os.fork()
    if not child:
        setattr(owner, what, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        opened.save("held", {"by": "all"}, replace=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_saves_whose_processes_are_killed_leave_the_former_one(project: Project) -> None:
    opened = OpenedResult(project.result)
    path = opened.save("held", {"by": "levels", "column": "state", "levels": [0]}, replace=True)
    former, kept, there = path.read_bytes(), opened.saved("held"), set(path.parent.iterdir())
    assert 0 < len(kept) < N
    command = [sys.executable, "-c", KILLED_SAVES, str(project.result)]
    died = subprocess.run(command, timeout=120, check=True, capture_output=True, text=True).stdout.split()
    assert died == [str(-signal.SIGKILL)] * 3
    left = set(path.parent.iterdir()) - there
    assert len(left) == 3  # each had begun to write
    assert path.read_bytes() == former
    again = OpenedResult(project.result)
    np.testing.assert_array_equal(again.saved("held"), kept)
    assert again.selections() == opened.selections()
    named = {f"{one['name']}.npz" for one in again.selections()}
    assert named == {one.name for one in there if one.suffix == ".npz"}  # what is left is none of them
    again.save("held", {"by": "all"}, replace=True)
    assert len(again.saved("held")) == N
    assert set(path.parent.iterdir()) == there | left
    path.unlink()
    # The next explorer clears them away once they are no longer young, but not what a living process writes.
    with atomic_path(path.parent / "others.npz") as alive:
        for one in (*left, alive):
            os.utime(one, (0, 0))
        with running(project.result):
            assert set(path.parent.iterdir()) - there == {alive}
        alive.write_bytes(b"whole")
    assert (path.parent / "others.npz").read_bytes() == b"whole"
    (path.parent / "others.npz").unlink()


def test_a_damaged_selection_is_one_sentence(project: Project) -> None:
    particles = read_learned_result(project.result).particles
    path = write_selection(project.result, "damaged", particles, np.arange(5), {"by": "all"})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"damaged\.npz cannot be read"):
        read_selection_file(path, particles)
    path.unlink()


def test_a_selection_of_a_run_on_other_rows_is_matched_by_identity(project: Project, tmp_path: Path) -> None:
    particles = read_learned_result(project.result).particles
    turned = particles.subset(np.arange(N)[::-1].copy())
    path = write_selection(tmp_path, "other_run", turned, np.array([0, 5, 7]), {"by": "all"})
    assert particles_in(path, particles).tolist() == sorted([N - 1, N - 6, N - 8])
    strangers = write_selection(tmp_path, "strangers", turned, np.array([0]), {"by": "all"})
    with np.load(strangers) as table:
        arrays = dict(table)
    np.savez(strangers, **{**arrays, "uid": arrays["uid"] + np.uint64(1)})
    with pytest.raises(InputError, match="has none of the particles"):
        particles_in(strangers, particles)


def test_maps_of_a_landscape_are_generated(project: Project) -> None:
    """Its states are means of volumes of the model; those of train are of original particles."""
    opened = OpenedResult(project.result)
    kinds = {one.key: one.kind for one in stored_maps(opened)}
    assert kinds["state00"] == kinds["consensus"] == "RECONSTRUCTED"
    assert kinds["volume000"] == "GENERATED"
    opened.result = replace(opened.result, states_directory=project.result)
    assert {one.key: one.kind for one in stored_maps(opened)}["state00"] == "GENERATED"


def test_rows_beyond_the_particles_are_other_particles(project: Project) -> None:
    particles = read_learned_result(project.result).particles
    path = selection_path(project.result, "beyond")
    path.parent.mkdir(exist_ok=True)
    np.savez(path, row=[0, N + 3], uid=particles.uid[:2], recipe="{}", written="")
    with pytest.raises(InputError, match="made of other particles"):
        read_selection_file(path, particles)
    path.unlink()


def test_a_result_without_latents_is_refused_with_what_to_do(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    rigid = Path("External/rigid")
    train(TrainSettings(in_parts=Path("particles.star"), o=rigid, zdim=0, device="cpu"), SilentMonitor())
    sentence = "rigid has no latents: it is a homogeneous reconstruction; train with --zdim 1 or more"
    for given in (rigid, rigid / "particles.star"):
        with pytest.raises(InputError, match=sentence):
            serve(ExploreSettings(in_results=(project.result, given), device="cpu"), SilentMonitor())


def test_a_port_that_is_taken_is_said_and_others_cannot_reach_it() -> None:
    with listening(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=rf"--port {port} cannot be used"), listening(port):
            pass


def test_the_job_says_its_address_and_ends_with_ctrl_c(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    status: list[int] = []

    class Listening(SilentMonitor):
        """Opens the page as soon as its address is said, and then presses Ctrl-C."""

        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def message(self, text: str) -> None:
            self.said.append(text)
            if "Ctrl-C" in text:
                threading.Thread(target=self.visit).start()

        def visit(self) -> None:
            found = re.search(r"http://(\S+?)(/\S+)", " ".join(self.said))
            assert found is not None
            connection = HTTPConnection(found.group(1), timeout=20)
            connection.request("GET", found.group(2))
            status.append(connection.getresponse().status)
            connection.close()
            os.kill(os.getpid(), signal.SIGINT)

    monitor = Listening()
    serve(ExploreSettings(in_results=(project.result,), device="cpu"), monitor)
    assert status == [200]
    said = " ".join(monitor.said)
    assert monitor.said[-1] == "Stopped."
    (address,) = opened
    assert address in said
    port = address.split("/")[2].split(":")[1]
    assert f"ssh -N -L {port}:127.0.0.1:{port} " in said
    with listening(int(port)):  # it is free again
        pass


def test_a_notebook_gets_a_frame(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = types.ModuleType("IPython.display")
    shown.IFrame = lambda address, **size: address  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    notebook_explore = cast("Callable[..., str]", cryodrgn_ext.explore)
    with pytest.raises(InputError, match="does not exist"):
        notebook_explore(project.root / "nowhere")
    frame = notebook_explore(JobResult(project.result, ()))
    host, path = frame.removeprefix("http://").split("/", 1)
    connection = HTTPConnection(host, timeout=20)
    connection.request("GET", f"/{path}")
    assert connection.getresponse().status == 200
    connection.close()
    assert Path(project.result).is_dir()


def test_density_within_a_mask_is_a_column_to_choose_by(project: Project, tmp_path: Path) -> None:
    opened = OpenedResult(project.result)
    box, pixel_A = 32, 8.0
    arm, body = np.zeros((2, box, box, box), np.float32)
    arm[4:8, 12:20, 12:20] = body[10:20, 12:20, 12:20] = 1.0

    class Summed:
        """Volumes of a body, and an arm whose density is the first latent."""

        box_size, pixel_size_A = box, pixel_A

        def linear_form(self) -> LinearForm:
            return LinearForm(body, 1, lambda: iter((arm,)), lambda z: z[:, :1])

    paths = [tmp_path / "arm.mrc", tmp_path / "body.mrc", tmp_path / "wrong.mrc"]
    for path, density, pixel in zip(paths, (arm, body, arm), (pixel_A, pixel_A, 3 * pixel_A), strict=True):
        write_map(path, density, pixel, None)
    model = cast("Heterogeneity", Summed())
    for path in paths[:2]:
        add_mask(opened, model, KeptMask(path))
    assert opened.values("mask:arm.mrc") == pytest.approx(opened.z[:, 0], abs=1e-5)
    assert opened.values("mask:body.mrc") == pytest.approx(1.0, abs=1e-5)
    chosen = opened.choose({"by": "range", "column": "mask:arm.mrc", "low": 0.0, "high": None})
    assert chosen.tolist() == np.flatnonzero(opened.z[:, 0] >= 0).tolist()
    # An arm that the average has not: whoever has any has half of it.
    np.testing.assert_array_equal(opened.values("mask:arm.mrc:has"), opened.z[:, 0] >= 0)
    with pytest.raises(InputError, match=r"the mask wrong\.mrc is"):
        add_mask(opened, model, KeptMask(paths[2]))
    draws = np.random.default_rng(0).normal(0.3, 0.5, 20_000)
    found = probability(np.array([0.3, -1.0, 0.0]), np.array([0.5, 0.0, 0.0]))
    assert found == pytest.approx([(draws > 0).mean(), 0.0, 1.0], abs=0.01)


def test_training_again_is_processes_of_our_own(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's click does it: select, train with the engine itself, and compare; nothing stands in for them."""
    monkeypatch.setattr(Loop, "run", RUN_PROCESS)
    result = project.root / "External/cheap"
    shutil.copytree(project.result, result)
    record = (result / "job.yaml").read_text()
    for former, quick in (
        ("zdim: 3", "zdim: 1"),
        ("volumes: 2", "volumes: 0"),
        ("check_weak: true", "check_weak: false"),
    ):
        assert f"\n  {former}\n" in record
        record = record.replace(f"\n  {former}\n", f"\n  {quick}\n")
    (result / "job.yaml").write_text(record)
    opened, loop, found = OpenedResult(result, project.root), Loop(SilentMonitor()), list[OpenedResult]()
    kept = np.arange(0, opened.n, 2)
    opened.save("half", {"by": "positions", "positions": kept.tolist()}, False)
    again = plan(opened, "half")

    def open_result(directory: Path) -> int:
        found.append(OpenedResult(directory, project.root))
        return len(found)

    scripts = [project.root / f"{name}.py" for name in ("random", "types")]
    for script in scripts:  # of the user, which no process of ours may take for its modules
        script.write_text("raise SystemExit('a script of the user ran')")
    loop.start(again, opened, open_result)
    while again.state == "running":
        time.sleep(0.1)
    assert again.state == "finished", again.line
    for script in scripts:
        script.unlink()
    assert (again.opened, found[0].n, found[0].z.shape) == (1, len(kept), (len(kept), 1))
    assert (again.directory / "model/model.safetensors").is_file()  # the engine's own: no stand-in has learned
    assert again.rows[0] == ("particles", str(opened.n), str(len(kept)))
    assert (again.directory / "compared/report.html").is_file()
    with pytest.raises(InputError, match="is there already: give another name"):
        plan(opened, "half")
    failing = Again(result / "again/nothing", ("cryodrgn-ext train --in_parts no.star --o x",), project.root)
    loop.start(failing, opened, open_result)
    while failing.state == "running":
        time.sleep(0.1)
    assert failing.state == "failed"
    assert "train" in failing.line
    assert not failing.directory.exists()  # its name is free again


def test_a_result_that_cannot_be_written_is_reconstructed_from(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's: even where its prepared images are gone, nothing of it is written."""
    result, folder = tmp_path / "theirs", tmp_path / "session"
    shutil.copytree(project.result, result)
    shutil.rmtree(result / "checkpoint/images", ignore_errors=True)
    folder.mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, how: result not in Path(path).parents and access(path, how))
    before = {path: path.stat().st_mtime_ns for path in result.rglob("*")}
    opened = OpenedResult(result, project.root)
    made = MapMaker(opened, folder, "cpu", SilentMonitor()).near(opened.z[0].tolist(), 20)
    assert made.facts["n"] == 20
    assert {path: path.stat().st_mtime_ns for path in result.rglob("*")} == before


def test_late_maps_take_no_more_of_the_disk_than_they_may(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = OpenedResult(project.result, project.root)
    maker, z = MapMaker(opened, tmp_path, "cpu", SilentMonitor()), opened.z[0].tolist()
    monkeypatch.setattr(maps, "FEWEST_MAPS", 2)
    (one,) = maker.generated(z).files.values()
    monkeypatch.setattr(maps, "MOST_BYTES", 3.5 * maker.file(one).stat().st_size)
    made = [one, *(maker.generated(z).files["map"] for _ in range(4))]
    assert sorted(path.name for path in tmp_path.iterdir()) == made[-3:]
    monkeypatch.setattr(maps, "MOST_BYTES", 0)
    made.append(maker.generated(z).files["map"])
    assert sorted(path.name for path in tmp_path.iterdir()) == made[-2:]
    with pytest.raises(InputError, match="there is no map"):
        maker.file(made[0])
