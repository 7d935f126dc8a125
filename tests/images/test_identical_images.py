"""Images that are the same pixel by pixel under two names: named, and never parted by half-sets."""

from __future__ import annotations

import io
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryodrgn_ext.images.dataset import ParticleImages, PreprocessSettings, open_images
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.simulate import simulate_particles, write_relion_project

N = 60


def project_with_copies(directory: Path, copies: dict[int, int]) -> Path:
    """Write a project in whose stack image ``copies[i]`` stands in the place of image i too (0-based)."""
    simulated = simulate_particles(N, box_size=32, pixel_size_A=8.0, snr=0.3, seed=4)
    write_relion_project(directory, simulated)
    with mrcfile.mmap(directory / "Particles/particles.mrcs", mode="r+") as stack:
        for target, source in copies.items():
            stack.data[target] = stack.data[source]
    return directory


def opened(project: Path, store: Path, chunk_bytes: int = 1 << 28) -> tuple[ParticleImages, str]:
    """Open the images twice (built, then reused), with what was said the second time."""
    particles = read_particles(project / "particles.star", project)
    open_images(particles, store, PreprocessSettings(), Monitor(io.StringIO()), chunk_bytes=chunk_bytes)
    said = io.StringIO()
    images = open_images(particles, store, PreprocessSettings(), Monitor(said))
    return images, said.getvalue()


@pytest.mark.parametrize("images_at_a_time", [7, 1000])
def test_copies_in_both_halves_are_named_and_brought_together(tmp_path: Path, images_at_a_time: int) -> None:
    copies = {target: target - 25 for target in range(30, 55)}
    project = project_with_copies(tmp_path / "project", copies)
    own = read_particles(project / "particles.star", project).half_set
    assert any(own[target] != own[source] for target, source in copies.items())
    images, said = opened(project, tmp_path / "store", images_at_a_time * 5 * 4 * 32**2)
    half_set = images.half_set.numpy()
    assert all(half_set[target] == half_set[source] for target, source in copies.items())
    assert min(np.bincount(half_set)[1:]) >= 0.4 * N
    assert "25 of 60 images are duplicates" in said
    assert "000006@" in said or "6@" in said


def test_copies_within_one_half_are_named_and_leave_the_half_sets(tmp_path: Path) -> None:
    project = project_with_copies(tmp_path / "project", {})
    own = read_particles(project / "particles.star", project).half_set
    source, target = np.flatnonzero(own == 1)[:2].tolist()
    project_with_copies(project, {target: source})
    images, said = opened(project, tmp_path / "store")
    assert images.half_set.numpy().tolist() == own.tolist()
    assert "1 of 60 images are duplicates" in said


def test_different_images_are_not_called_duplicates(tmp_path: Path) -> None:
    _, said = opened(project_with_copies(tmp_path / "project", {}), tmp_path / "store")
    assert "duplicate" not in said
