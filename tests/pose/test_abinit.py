"""Ab initio reconstruction as a whole: poses and map from nothing, agreement, resuming, refusals."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.pose import abinit, random_initialisations
from cryodrgn_ext.pose.abinit import AbInitio, reconstruct
from cryodrgn_ext.pose.initial import Schedule
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from tests.monitors import RecordingMonitor
from tests.pose.phantoms import Phantom, phantom

pytestmark = pytest.mark.slow
SETTINGS = ReconstructSettings(initialisations=2, initialisation_particles=300, max_shift_px=2.5, seed=1)


@pytest.fixture(scope="module")
def made() -> Phantom:
    return phantom(500, snr=0.5, shift_px=2.0)


@pytest.fixture(scope="module", autouse=True)
def quick_initialisations() -> Iterator[None]:
    """Few steps and a low band: the phantom has 32 pixels, and an SNR of 0.5."""
    with pytest.MonkeyPatch.context() as patch:
        small = Schedule(turns=2.5, batch=100, cooling=1.1, most_steps=25)
        patch.setattr(random_initialisations, "Schedule", lambda: small)
        yield


@pytest.fixture(scope="module")
def found(made: Phantom, tmp_path_factory: pytest.TempPathFactory) -> tuple[AbInitio, Path, list[str]]:
    directory = tmp_path_factory.mktemp("abinit")
    monitor = RecordingMonitor()
    return reconstruct(made.images, SETTINGS, directory, monitor), directory, monitor.lines


def test_poses_and_map_come_from_nothing(made: Phantom, found: tuple[AbInitio, Path, list[str]]) -> None:
    result = found[0]
    aligned = align_poses(result.poses, made.poses)
    assert np.median(aligned.errors.degrees) < 4.0
    assert np.median(aligned.errors.shift_px) < 0.25
    assert np.mean(aligned.errors.degrees < 20) > 0.9
    images = made.images.with_poses(aligned.transform.poses(result.poses))
    curve = fsc(torch.from_numpy(reconstruct_half_maps(images).map), made.density)
    assert curve[1:9].min() > 0.8


def test_the_map_is_in_the_coordinates_of_the_poses(made: Phantom, found: tuple[AbInitio, Path, list[str]]) -> None:
    result = found[0]
    again = reconstruct_half_maps(made.images.with_poses(result.poses))
    assert fsc(torch.from_numpy(again.map), torch.from_numpy(result.map))[1:10].min() > 0.98
    assert fsc(torch.from_numpy(again.half1), torch.from_numpy(result.half1))[1:10].min() > 0.98


def test_both_initialisations_are_reported_and_agree(found: tuple[AbInitio, Path, list[str]]) -> None:
    reports = found[0].initialisations
    assert [report.seed for report in reports[:2]] == [1, 2]
    best = max(reports, key=lambda report: report.log_likelihood)
    assert best.agreement == 1.0
    assert all(report.log_likelihood > 0 for report in reports)
    assert max(report.agreement for report in reports if report is not best) > 0.5


def test_uncertain_images_are_known(made: Phantom, found: tuple[AbInitio, Path, list[str]]) -> None:
    result = found[0]
    assert np.isfinite(result.error_deg).all()
    assert (result.error_deg > 0).all()
    aligned = align_poses(result.poses, made.poses)
    worse = result.error_deg > np.median(result.error_deg)
    assert np.median(aligned.errors.degrees[worse]) > np.median(aligned.errors.degrees[~worse])


def test_an_interrupted_run_goes_on_where_it_was(
    made: Phantom, found: tuple[AbInitio, Path, list[str]], tmp_path: Path
) -> None:
    shutil.copy(found[1] / abinit.INITIALISATIONS_FILE, tmp_path)
    with pytest.raises(JobAborted):
        reconstruct(made.images, SETTINGS, tmp_path, RecordingMonitor(at=lambda text: text.startswith("Round 2")))
    monitor = RecordingMonitor()
    resumed = reconstruct(made.images, SETTINGS, tmp_path, monitor)
    assert any("Continuing after round 1" in line for line in monitor.lines)
    assert not any(line.startswith("Random initialisation ") for line in monitor.lines)
    assert torch.equal(resumed.poses.rotation, found[0].poses.rotation)
    np.testing.assert_array_equal(resumed.map, found[0].map)


def test_some_particles_are_refined_before_all(
    made: Phantom, found: tuple[AbInitio, Path, list[str]], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, core_particles=300)
    core = abinit.core_rows(made.images, settings)
    assert len(core.unique()) == 300
    assert int((made.images.half_set[core] == 1).sum()) == 150
    monitor = RecordingMonitor()
    result = reconstruct(made.images, settings, tmp_path / "whole", monitor)
    assert monitor.lines.index("300 of 500 particles are refined first.") < monitor.lines.index(
        "All 500 particles are aligned to the map of the first 300."
    )
    aligned = align_poses(result.poses, made.poses)
    assert np.mean(aligned.errors.degrees < 20) > 0.9
    assert np.median(aligned.errors.degrees) < 4.0
    assert result.log_likelihood.mean() == pytest.approx(found[0].log_likelihood.mean(), rel=0.02)
    leaving = RecordingMonitor(
        at=lambda text: text.startswith("Round 2") and any(line.startswith("All ") for line in leaving.lines)
    )  # the second round in which all particles take part
    (tmp_path / "whole" / abinit.WHOLE_FILE).unlink()
    with pytest.raises(JobAborted):
        reconstruct(made.images, settings, tmp_path / "whole", leaving)
    again = RecordingMonitor()
    resumed = reconstruct(made.images, settings, tmp_path / "whole", again)
    assert any("Continuing after round 1." in line for line in again.lines)
    assert torch.equal(resumed.poses.rotation, result.poses.rotation)
    np.testing.assert_array_equal(resumed.half1, result.half1)


def test_a_finished_run_is_read_back(made: Phantom, found: tuple[AbInitio, Path, list[str]]) -> None:
    again = reconstruct(made.images, SETTINGS, found[1])
    assert torch.equal(again.poses.rotation, found[0].poses.rotation)
    np.testing.assert_array_equal(again.half2, found[0].half2)


def test_a_checkpoint_of_other_images_or_settings_is_refused(
    made: Phantom, found: tuple[AbInitio, Path, list[str]]
) -> None:
    with pytest.raises(ResumeError, match="other settings or other particles"):
        reconstruct(made.images, replace(SETTINGS, seed=2), found[1])
    with pytest.raises(ResumeError, match="other settings or other particles"):
        reconstruct(phantom(500, snr=0.5, seed=4).images, SETTINGS, found[1])


def test_a_damaged_checkpoint_is_named(made: Phantom, tmp_path: Path) -> None:
    (tmp_path / abinit.INITIALISATIONS_FILE).write_bytes(b"no safetensors")
    with pytest.raises(ResumeError, match="cannot be read"):
        reconstruct(made.images, SETTINGS, tmp_path)


def test_poses_that_do_not_converge_are_warned_of(
    made: Phantom, found: tuple[AbInitio, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abinit, "UNCONVERGED_SHARE", -1.0)
    monitor = RecordingMonitor()
    result = reconstruct(made.images, SETTINGS, found[1], monitor)
    assert any("still moved" in line and "may be wrong" in line for line in monitor.warnings)
    assert result.verdict != "found"


def test_several_are_refined_on_some_of_many_particles(
    made: Phantom, found: tuple[AbInitio, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abinit, "CONTEST_PARTICLES", 300)
    shutil.copy(found[1] / abinit.INITIALISATIONS_FILE, tmp_path)
    result = reconstruct(made.images, SETTINGS, tmp_path)
    assert (tmp_path / abinit.CONTEST_FILES.format("2")).exists()
    assert np.mean(align_poses(result.poses, made.poses).errors.degrees < 20) > 0.9
    assert result.verdict == "found"
    assert len(result.poses) == made.images.n


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"initialisations": 0}, "number of random initialisations is 0"),
        ({"max_shift_px": 20.0}, "largest shift"),
        ({"mask_radius_px": 1.0}, "radius of the mask"),
        ({"initialisation_particles": 0}, "but 0 are asked for"),
        ({"core_particles": 1}, "number of particles refined first is 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(made: Phantom, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        reconstruct(made.images, replace(SETTINGS, **change))


def test_particles_of_one_half_are_refused(made: Phantom) -> None:
    one = replace(made.images, half_set=torch.ones(made.images.n, dtype=torch.int8))
    with pytest.raises(InputError, match="not in two halves"):
        reconstruct(one, SETTINGS)
