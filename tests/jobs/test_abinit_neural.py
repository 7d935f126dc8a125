"""The abinit job with the network as its model: poses return, tilt pairs stay pairs, contradictions are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.engines.neural.tilt_pairs import tilt_rotation
from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.abinit import abinit
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.results.latent_tables import read_latent_table
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from cryodrgn_ext.workflow.abinit import abinit_neural
from tests.jobs import fake_poses
from tests.monitors import said_by

N, BOX, PIXEL_SIZE_A, TILT_DEG = 120, 32, 8.0, 35.0
SMALL = AbinitSettings(
    in_parts=Path("first/particles.star"), o=Path("out"), engine="neural", device="cpu", precision="float32", box=16,
    epochs=1, random_images=60, retrain="none", grid_deg="30", refinements=1, keep_poses=2, shift_steps=3, dec_layers=1,
    dec_dim=16, enc_layers=1, enc_dim=16, k_min=5.0, k_max=6.0, tilt_deg=TILT_DEG, search_volumes=2, volumes=2,
)  # fmt: skip
PAIRS = replace(SMALL, tilted_parts=Path("second/particles.star"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two projects with the same particles; the images of the second are others."""
    root = tmp_path_factory.mktemp("pairs")
    for name, seed in (("first", 1), ("second", 2)):
        particles = simulate_particles(
            N, motion=two_domain_protein(0, 0.0), box_size=BOX, pixel_size_A=PIXEL_SIZE_A, snr=1.0, max_shift_px=2.0,
            seed=seed,
        )  # fmt: skip
        write_relion_project(root / name, particles)
    text = (root / "second" / "particles.star").read_text()
    # Not tilted images of one another, so that positions would not bear out the order of the rows.
    text = text.replace("_rlnCoordinate", "_rlnElsewhere")
    (root / "second" / "particles.star").write_text(text.replace("@", "@../second/"))
    return root


def run(settings: AbinitSettings) -> str:
    return said_by(abinit, settings)


def interrupted(*_: object, **__: object) -> None:
    raise JobAborted("stopped")


def test_pairs_return_as_pairs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    settings = replace(PAIRS, o=tmp_path / "out", first_poses="random")
    run(settings)
    first, second = (read_particles(settings.o / f"{name}.star") for name in ("particles", "tilted"))
    turn = tilt_rotation(TILT_DEG).numpy()
    np.testing.assert_allclose(second.rotation, turn @ first.rotation, atol=1e-5)
    assert np.abs(second.shift_A - first.shift_A).max() > PIXEL_SIZE_A  # each has its own
    np.testing.assert_array_equal(second.half_set, first.half_set)
    assert read_map(settings.o / "map.mrc").box_size == 16
    before = (settings.o / "tilted.star").read_bytes()
    said = run(settings)
    assert "Ab initio reconstruction" not in said  # finished: nothing is searched anew
    assert (settings.o / "tilted.star").read_bytes() == before
    with pytest.raises(ResumeError, match="--tilted_parts is another"):
        run(replace(settings, tilted_parts=None))
    with pytest.raises(ResumeError, match="--zdim was 0"):
        run(replace(settings, zdim=1))


def test_network_starts_from_the_poses_of_a_map(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    truth = read_particles(SMALL.in_parts)
    fake_poses.install(monkeypatch, truth.rotation, truth.shift_A).warning = "The map may be wrong."
    settings = replace(SMALL, o=tmp_path / "out", zdim=1)
    monkeypatch.setattr(abinit_neural, "reconstruct_half_maps", interrupted)
    with pytest.raises(JobAborted):
        run(settings)
    monkeypatch.undo()
    monkeypatch.chdir(project)
    search = fake_poses.install(monkeypatch, truth.rotation, truth.shift_A)
    said = run(settings)
    assert search.calls == []  # the poses of the map are kept, and the network goes on from them
    assert "The map may be wrong." in said  # of their search, which was not done again
    assert "from the poses given" in said
    assert "Continuing from the checkpoint" in said
    assert read_particles(settings.o / "particles.star").n == N
    assert read_latent_table(settings.o / "latents.npz").z.shape == (N, 1)
    assert 1 <= len(list((settings.o / "volumes").glob("vol_*.mrc"))) <= 2  # as many as there are different latents


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": "auto"}, "--engine neural only"),
        ({"engine": "auto", "tilted_parts": None}, "works with --engine neural only, and the engine is auto"),
        ({"flip_hand": True}, "tilts tell the hand"),
        ({"tilt_deg": 0.0}, "is no tilt"),
        ({"tilted_parts": Path("first/particles.star")}, "row 1 .* is the same image as in first"),
        ({"k_max": 4.0}, "--k_max 4 is below"),
    ],
)
def test_contradictions_are_refused_at_once(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    monkeypatch.chdir(project)
    settings = replace(PAIRS, o=tmp_path / "out", **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        abinit(settings, SilentMonitor())
    assert not settings.o.exists()
