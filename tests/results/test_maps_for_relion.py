"""Maps and particles of one job fit each other in sign, as the next job of a suite will use them."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
import yaml

from cryodrgn_ext.images.dataset import open_images
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.consensus import consensus
from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.jobs.landscape import landscape
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.consensus import ConsensusSettings
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.options.landscape import LandscapeSettings
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.maps_for_relion import MAP_FOR_RELION
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from cryodrgn_ext.workflow.job_result import JobResult, MapOutput, OutputKind
from tests import blank_pictures

# The whole file, so that its tests stay in the order in which they share trainings.
pytestmark = pytest.mark.relion
N, BOX, PIXEL_A = 240, 24, 13.0
SETTINGS = TrainSettings(in_parts=Path("particles.star"), o=Path("out"), zdim=1, states=2, volumes=0, device="cpu")


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    particles = simulate_particles(N, motion=two_domain_protein(), box_size=BOX, pixel_size_A=PIXEL_A, snr=1.0, seed=1)
    write_relion_project(folder, particles)
    return folder


@pytest.fixture(autouse=True)
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    blank_pictures.install(monkeypatch)


@pytest.fixture(scope="module", params=["light", "dark"])
def images(request: pytest.FixtureRequest, light: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project; its name says what the images look like."""
    folder = tmp_path_factory.mktemp("images") / request.param
    shutil.copytree(light, folder)
    if request.param == "dark":
        for path in (folder / "Particles").glob("*.mrcs"):
            with mrcfile.open(path, "r+") as file:
                file.set_data(-file.data)
    return folder


@pytest.fixture
def project(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, which is the working directory."""
    folder = tmp_path / images.name
    shutil.copytree(images, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobResult, str]:
    """A copy of the project with a training in ``out``, its result, and what it said."""
    folder = tmp_path_factory.mktemp("trained") / images.name
    shutil.copytree(images, folder)
    with pytest.MonkeyPatch.context() as patch:
        blank_pictures.install(patch)
        patch.chdir(folder)
        result, said = run(SETTINGS)
    return folder, result, said


@pytest.fixture
def finished(trained: tuple[Path, JobResult, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trained project, which is the working directory."""
    monkeypatch.chdir(trained[0])
    return trained[0]


def run(settings: TrainSettings) -> tuple[JobResult, str]:
    said = io.StringIO()
    return train(settings, Monitor(said)), said.getvalue()


def sign_of(path: Path) -> int:
    """Whether a map and the true one correlate (1) or anticorrelate (-1)."""
    found, truth = read_map(path).data.ravel(), read_map("reference.mrc").data.ravel()
    correlation = float(np.corrcoef(found, truth)[0, 1])
    assert abs(correlation) > 0.7
    return 1 if correlation > 0 else -1


def test_what_relion_is_offered_has_the_sign_of_the_images(
    finished: Path, trained: tuple[Path, JobResult, str]
) -> None:
    dark = finished.name == "dark"
    _, result, text = trained
    for folder in (Path("out/consensus"), Path("out/states/state00"), Path("out/states/state01")):
        assert sign_of(folder / "map.mrc") == 1
        assert (folder / MAP_FOR_RELION).exists() == dark
        if dark:
            assert sign_of(folder / MAP_FOR_RELION) == -1
            assert read_map(folder / MAP_FOR_RELION).pixel_size_A == pytest.approx(PIXEL_A)
    offered = {file.path.name for file in result.files if file.kind is OutputKind.MAP}
    assert offered == {MAP_FOR_RELION if dark else "map.mrc"}
    # CryoSPARC takes the white maps themselves.
    assert {output.path.name for output in result.outputs if isinstance(output, MapOutput)} == {"map.mrc"}
    assert ("RELION, which knows no sign" in text) == dark
    assert yaml.safe_load(Path("out/job.yaml").read_text())["results"]["data_sign"] == (-1 if dark else 1)
    if dark:
        assert "knows no sign" in Path("out/report.html").read_text()


def test_particles_that_return_as_a_cs_have_their_sign(project: Path) -> None:
    run(replace(SETTINGS, particles_format="cs"))
    dark = project.name == "dark"
    for path in (Path("out/particles.cs"), Path("out/states/state01/particles.cs")):
        sign = np.load(path, allow_pickle=False)["blob/sign"]
        assert set(sign.tolist()) == {-1.0 if dark else 1.0}
    assert not list(Path("out").rglob(MAP_FOR_RELION))


@pytest.mark.parametrize("said", ["white", "black"])
def test_a_cs_whose_sign_is_wrong_is_warned_about(project: Path, said: str) -> None:
    dark = project.name == "dark"
    settings = ConvertSettings(in_parts=Path("particles.star"), o=Path("particles.cs"), contrast=said)
    convert(settings, Monitor(io.StringIO()))
    _, text = run(replace(SETTINGS, in_parts=Path("particles.cs")))
    assert ("blob/sign says otherwise" in text) == ((said == "black") != dark)
    assert not list(Path("out").rglob(MAP_FOR_RELION))
    assert sign_of(Path("out/consensus/map.mrc")) == 1


def test_the_other_jobs_too(finished: Path) -> None:
    dark = finished.name == "dark"
    validate(ValidateSettings(in_parts=Path("out"), o=Path("v"), device="cpu", random_subsets=12),
             Monitor(io.StringIO()))  # fmt: skip
    consensus(ConsensusSettings(in_parts=Path("particles.star"), o=Path("c"), device="cpu"), Monitor(io.StringIO()))
    settings = LandscapeSettings(in_parts=Path("out"), o=Path("l"), clusters=2, sketch=20, bootstrap=2)
    landscape(settings, Monitor(io.StringIO()))
    for folder in ("v/consensus", "v/states/state00", "c/consensus", "l/states/state00"):
        assert sign_of(Path(folder) / "map.mrc") == 1
        assert (Path(folder) / MAP_FOR_RELION).exists() == dark
    select(SelectSettings(in_parts=Path("out"), o=Path("some.cs"), state=(0,)), Monitor(io.StringIO()))
    sign = np.load("some.cs", allow_pickle=False)["blob/sign"]
    assert set(sign.tolist()) == {-1.0 if dark else 1.0}


def test_validation_takes_the_sign_of_the_training(project: Path) -> None:
    """The sign that the user set for training counts, also where the images look otherwise."""
    run(replace(SETTINGS, contrast="black"))
    said = io.StringIO()
    validate(ValidateSettings(in_parts=Path("out"), o=Path("v"), device="cpu", random_subsets=12), Monitor(said))
    assert "black as set" in said.getvalue() or "set to black" in said.getvalue()
    assert sign_of(Path("v/consensus/map.mrc")) == (1 if project.name == "dark" else -1)


def test_images_know_their_sign(project: Path) -> None:
    images = open_images(read_particles("particles.star"), Path("store"))
    assert images.data_sign == (-1 if project.name == "dark" else 1)
    assert images.subset(torch.arange(5)).data_sign == images.data_sign


def test_relion_reconstructs_what_the_reference_promises(finished: Path, trained: tuple[Path, JobResult, str]) -> None:
    """relion_reconstruct of the returned particles correlates with the map that RELION is offered."""
    result = trained[1]
    offered = next(file.path for file in result.files if file.kind is OutputKind.MAP)
    command = ["relion_reconstruct", "--i", str(offered.parent / "particles.star"), "--o", "r.mrc", "--ctf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs, ours = low_pass(read_map("r.mrc").data), low_pass(read_map(offered).data)
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.7


def test_a_chained_classification_keeps_the_map(finished: Path, trained: tuple[Path, JobResult, str]) -> None:
    """Class3D of the returned particles, begun from the map that RELION is offered, ends at a map like it."""
    result = trained[1]
    particles = next(file.path for file in result.files if file.kind is OutputKind.PARTICLES)
    offered = Path("out/consensus") / (MAP_FOR_RELION if finished.name == "dark" else "map.mrc")
    assert offered in {file.path for file in result.files}
    Path("Class3D").mkdir()
    command = (
        f"relion_refine --i {particles} --ref {offered} --o Class3D/run --iter 2 --K 1 --tau2_fudge 4 --firstiter_cc "
        f"--ini_high 50 --ctf --particle_diameter {0.9 * BOX * PIXEL_A} --flatten_solvent --zero_mask --oversampling 1 "
        "--healpix_order 1 --offset_range 3 --offset_step 2 --norm --scale --j 1 --pad 1 --sym C1"
    )
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = read_map("Class3D/run_it002_class001.mrc").data
    assert np.corrcoef(low_pass(found).ravel(), low_pass(read_map(offered).data).ravel())[0, 1] > 0.6


def low_pass(volume: np.ndarray) -> np.ndarray:
    """The map without what lies beyond 5 cycles per box."""
    k = np.fft.fftfreq(BOX) * BOX
    inside = k[:, None, None] ** 2 + k[:, None] ** 2 + k[: BOX // 2 + 1] ** 2 <= 25
    return np.fft.irfftn(np.fft.rfftn(volume) * inside, volume.shape, axes=(0, 1, 2))
