"""A user's day with the real RELION: import, train, select, go on in RELION; abort, failure, kill, queue."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import safetensors
import starfile
import yaml

from tests.relion_wrappers.pipeline import (
    ABORTED,
    BOX,
    FAILURE,
    PER_STATE,
    SUCCESS,
    Project,
    make_project,
    wait_until,
)

pytestmark = [pytest.mark.relion, pytest.mark.slow]
PARTICLES, MAP, MASK, HALF_MAP, PDF = 3, 6, 7, 10, 13
QUICK = ("--zdim", "2", "--epochs", "2", "--states", "2", "--volumes", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("relion_project"))


@pytest.fixture(scope="module")
def imported(project: Project) -> str:
    job = project.add("--addJob", "Import", "--addJobOptions",
                      "do_raw == No;do_other == Yes;fn_in_other == Sim/particles.star;"
                      "node_type == Particles STAR file (.star)")  # fmt: skip
    assert project.run_job(job) == SUCCESS
    return job + "particles.star"


@pytest.fixture(scope="module")
def trained(project: Project, imported: str) -> str:
    job = project.add_external("train", "--in_parts", imported, *QUICK)
    assert project.run_job(job) == SUCCESS, (project.root / job / "run.err").read_text()
    return job


def particles(path: Path) -> dict[str, list[object]]:
    return {key: list(values) for key, values in starfile.read(path, always_dict=True)["particles"].items()}


def low_pass(volume: np.ndarray) -> np.ndarray:
    """The map without what lies beyond 6 cycles per box, flat: relion_reconstruct does not filter its noise."""
    frequency = np.fft.fftfreq(BOX, 1 / BOX)
    squared = frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + frequency[None, None, :] ** 2
    return np.fft.ifftn(np.fft.fftn(volume) * ((squared <= 36) & (squared > 0))).real.ravel()


def worker_of(job: str) -> int:
    """Process id of the wrapper that runs a job (its parent process, which writes the marker)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            if any(word.endswith(b"cdx-relion-train") for word in words) and job.encode() in words:
                found[int(entry.name)] = parent
    (top,) = [pid for pid, parent in found.items() if parent not in found and _is_python(pid)]
    return top


def _is_python(pid: int) -> bool:
    return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def finished_passes(project: Project, job: str) -> int:
    path = project.root / job / "checkpoint/training/neural.safetensors"
    if not path.exists():
        return 0
    with safetensors.safe_open(str(path), framework="np") as handle:
        return int(json.loads(handle.metadata()["description"])["epoch"])


def test_train_succeeds_and_its_nodes_are_in_the_pipeline(project: Project, trained: str) -> None:
    assert project.markers(trained) == ["RELION_JOB_EXIT_SUCCESS"]
    assert (project.root / trained / "run.err").read_text() == ""
    nodes = project.nodes()
    expected = {"particles.star": PARTICLES, "states/state00/particles.star": PARTICLES, "states/state01/map.mrc": MAP,
                "states/state00/half1.mrc": HALF_MAP, "states/state01/mask.mrc": MASK, "volumes/vol_001.mrc": MAP,
                "consensus/map.mrc": MAP, "logfile.pdf": PDF}  # fmt: skip
    for name, kind in expected.items():
        assert nodes[trained + name] == kind
    for name in (name for name in nodes if name.startswith(trained)):
        assert (project.root / name).is_file()
    for name in ("job.yaml", "latents.npz", "report.html", "run.log", "model"):
        assert (project.root / trained / name).exists()


def test_states_hold_the_two_conformations(project: Project, trained: str) -> None:
    purity = []
    for number in (0, 1):
        names = particles(project.root / trained / f"states/state{number:02d}/particles.star")["rlnImageName"]
        first = sum("images0" in str(name) for name in names)
        purity.append(max(first, len(names) - first) / len(names))
    assert min(purity) > 0.9


def test_returned_rows_are_the_users_own(project: Project, imported: str, trained: str) -> None:
    before = (project.root / imported).read_text().splitlines()
    after = (project.root / trained / "particles.star").read_text().splitlines()
    rows_before = [line.split() for line in before if "@" in line]
    rows_after = [line.split() for line in after if "@" in line]
    assert [row[: len(rows_before[0])] for row in rows_after] == rows_before
    table = particles(project.root / trained / "particles.star")
    assert {"cdxLatent1", "cdxLatent2", "cdxState"} <= set(table)
    with np.load(project.root / trained / "latents.npz") as latents:
        assert latents["z"].shape == (2 * PER_STATE, 2)
        assert list(latents["image_name"]) == table["rlnImageName"]
        np.testing.assert_allclose(latents["z"][:, 0], np.array(table["cdxLatent1"], float), rtol=1e-4, atol=1e-6)


def test_select_returns_a_subset_that_reconstruct_and_class3d_accept(project: Project, trained: str) -> None:
    job = project.add_external("select", "--in_parts", trained + "particles.star", "--state", "1")
    assert project.run_job(job) == SUCCESS, (project.root / job / "run.err").read_text()
    subset = job + "particles.star"
    assert project.nodes()[subset] == PARTICLES
    table = particles(project.root / subset)
    assert set(table["cdxState"]) == {1}
    project.run("relion_reconstruct", "--i", subset, "--o", "subset.mrc", "--ctf")
    with (
        mrcfile.open(project.root / "subset.mrc") as file,
        mrcfile.open(project.root / trained / "states/state01/map.mrc") as ours,
    ):
        assert file.data.shape == (BOX, BOX, BOX)
        assert np.corrcoef(low_pass(file.data), low_pass(ours.data))[0, 1] > 0.95
    class3d = project.add("--addJob", "Class3D", "--addJobOptions",
                          f"fn_img == {subset};fn_ref == Sim/reference.mrc;fn_mask == ;nr_iter == 1;nr_classes == 2;"
                          "particle_diameter == 150;dont_skip_align == No;use_gpu == No;nr_mpi == 1;nr_threads == 1;"
                          "ini_high == 30;ref_correct_greyscale == No;do_preread_images == Yes")  # fmt: skip
    assert project.run_job(class3d) == SUCCESS, (project.root / class3d / "run.err").read_text()
    classified = particles(project.root / class3d / "run_it001_data.star")
    assert sorted(map(str, classified["rlnImageName"])) == sorted(map(str, table["rlnImageName"]))
    assert set(classified["cdxState"]) == {1}


def test_landscape_of_a_train_job_and_its_states_in_relion(project: Project, trained: str) -> None:
    job = project.add_external("landscape", "--in_parts", trained + "particles.star", "--clusters", "2",
                               "--sketch", "30", "--bootstrap", "5")  # fmt: skip
    assert project.run_job(job) == SUCCESS, (project.root / job / "run.err").read_text()
    assert project.markers(job) == ["RELION_JOB_EXIT_SUCCESS"]
    assert (project.root / job / "run.err").read_text() == ""
    nodes = project.nodes()
    expected = {"particles.star": PARTICLES, "states/state00/particles.star": PARTICLES, "states/state01/map.mrc": MAP,
                "states/state00/on_data.mrc": MAP, "components/pc01.mrc": MAP, "components/pc01_004.mrc": MAP,
                "mask.mrc": MASK, "logfile.pdf": PDF}  # fmt: skip
    for name, kind in expected.items():
        assert nodes[job + name] == kind
    for name in (name for name in nodes if name.startswith(job)):
        assert (project.root / name).is_file()
    purity, maps = [], []
    for number in (0, 1):
        state = f"{job}states/state{number:02d}/"
        table = particles(project.root / state / "particles.star")
        assert set(table["cdxState"]) == {number}
        assert "cdxVolumePc1" in table
        first = sum("images0" in str(name) for name in table["rlnImageName"])
        purity.append(max(first, len(table["rlnImageName"]) - first) / len(table["rlnImageName"]))
        project.run("relion_reconstruct", "--i", state + "particles.star", "--o", f"cluster{number}.mrc", "--ctf")
        names = (project.root / f"cluster{number}.mrc", project.root / state / "map.mrc")
        maps.append([low_pass(mrcfile.read(name)) for name in names])
    assert min(purity) > 0.7  # two passes of a network over 240 images
    # RELION's maps of the states differ by what the landscape's maps differ by.
    theirs, ours = (first - second for first, second in zip(*maps, strict=True))
    assert np.corrcoef(theirs, ours)[0, 1] > 0.6
    chosen = project.add_external("select", "--in_parts", job + "states/state01/particles.star", "--state", "1")
    assert project.run_job(chosen) == SUCCESS, (project.root / chosen / "run.err").read_text()
    assert particles(project.root / chosen / "particles.star")["rlnImageName"] == table["rlnImageName"]


def test_validate_gives_full_size_maps_that_relion_reconstructs_alike(project: Project, trained: str) -> None:
    job = project.add_external("validate", "--in_parts", trained + "particles.star", "--random_subsets", "12")
    assert project.run_job(job) == SUCCESS, (project.root / job / "run.err").read_text()
    nodes = project.nodes()
    expected = {"states/state00/particles.star": PARTICLES, "states/state01/map.mrc": MAP, "logfile.pdf": PDF,
                "states/state01/half1.mrc": HALF_MAP, "states/state00/mask.mrc": MASK}  # fmt: skip
    for name, kind in expected.items():
        assert nodes[job + name] == kind
    report = (project.root / job / "report.html").read_text()
    assert "its difference from the consensus correlates" in report
    record = yaml.safe_load((project.root / job / "job.yaml").read_text(encoding="utf-8"))
    assert [state["verdict"] for state in record["results"]["states"]] == ["distinct", "distinct"]
    state = job + "states/state00/"
    project.run("relion_reconstruct", "--i", state + "particles.star", "--o", "checked.mrc", "--ctf")
    with (
        mrcfile.open(project.root / "checked.mrc") as file,
        mrcfile.open(project.root / state / "map.mrc") as ours,
    ):
        assert file.data.shape == ours.data.shape == (BOX, BOX, BOX)
        assert np.corrcoef(low_pass(file.data), low_pass(ours.data))[0, 1] > 0.95


def test_abort_from_relion_is_honoured(project: Project, imported: str) -> None:
    job = project.add_external("train", "--in_parts", imported, *QUICK[:2], "--epochs", "9999", "--device", "cpu")
    pipeliner = project.start("relion_pipeliner", "--sec_wait_after", "1", "--RunJobs", job)
    wait_until(lambda: finished_passes(project, job) >= 1, "the first pass")
    (project.root / job / "RELION_JOB_ABORT_NOW").touch()
    wait_until(lambda: project.markers(job) == ["RELION_JOB_EXIT_ABORTED"], "the marker")
    pipeliner.wait(60)
    assert project.statuses()[job] == ABORTED
    assert "aborted" in (project.root / job / "run.err").read_text()


def test_bad_input_is_a_failed_job_with_one_sentence(project: Project, imported: str) -> None:
    text = (project.root / imported).read_text().replace("images1.mrcs", "nowhere.mrcs")
    (project.root / "Sim/bad.star").write_text(text)
    job = project.add_external("train", "--in_parts", "Sim/bad.star", *QUICK)
    assert project.run_job(job) == FAILURE
    assert project.markers(job) == ["RELION_JOB_EXIT_FAILURE"]
    complaint = (project.root / job / "run.err").read_text()
    assert len(complaint.splitlines()) == 1
    assert "Sim/nowhere.mrcs does not exist" in complaint
    assert not (project.root / job / "RELION_OUTPUT_NODES.star").exists()
    assert "Traceback" in (project.root / job / "run.log").read_text()


def test_continue_after_kill_9_in_mid_training(project: Project, imported: str) -> None:
    job = project.add_external("train", "--in_parts", imported, "--zdim", "2", "--epochs", "12", "--states", "2",
                               "--volumes", "1", "--device", "cpu", "--architecture", "separable")  # fmt: skip
    pipeliner = project.start("relion_pipeliner", "--sec_wait_after", "1", "--RunJobs", job)
    wait_until(lambda: finished_passes(project, job) >= 2, "two passes")
    os.kill(worker_of(job), signal.SIGKILL)
    os.killpg(pipeliner.pid, signal.SIGKILL)  # it would wait for ever, as RELION's window does
    pipeliner.wait()
    (project.root / ".relion_lock/lock_default_pipeline.star").unlink(missing_ok=True)
    passes = finished_passes(project, job)
    assert 2 <= passes < 12
    assert project.markers(job) == []
    assert project.run_job(job) == SUCCESS, (project.root / job / "run.err").read_text()
    log = (project.root / job / "run.log").read_text()
    assert "Consensus by backprojection: done before." in log
    assert f"Continuing from the checkpoint after {passes} finished passes" in log
    history = json.loads((project.root / job / "model/engine.json").read_text())["loss_history"]
    assert len(history["total"]) == 12
    assert project.markers(job) == ["RELION_JOB_EXIT_SUCCESS"]


def test_queue_submission_with_a_template_script(project: Project, imported: str) -> None:
    (project.root / "queue.sh").write_text(
        "#!/bin/bash\n# XXXqueueXXX XXXcoresXXX\ntouch submitted\nXXXcommandXXX >> XXXoutfileXXX 2>> XXXerrfileXXX\n"
    )
    job = project.add_external("train", "--in_parts", imported, *QUICK, "--queue_script", "queue.sh",
                               "--queue_command", "bash")  # fmt: skip
    assert project.run_job(job) == SUCCESS, (project.root / job / "run.err").read_text()
    assert (project.root / "submitted").exists()
    assert (project.root / job / "run_submit.script").exists()
    assert project.nodes()[job + "particles.star"] == PARTICLES
