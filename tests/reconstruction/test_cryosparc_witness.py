"""A .cs converted to a STAR file reconstructs, in RELION's hands, the map that we make from the .cs itself.

Views crowd around some directions as in real refinements, and defoci lie so close together that the shells near zeros
of the CTF hold little: places where two programs can differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.images.dataset import PreprocessSettings, open_images
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.reconstruction.backprojection import backproject
from tests.metadata.cs_data import Record, particles_record, save
from tests.reconstruction.test_relion_reconstruct_witness import (
    BOX,
    MASK,
    PIXEL_A,
    project_images,
    reconstruct_with_relion,
    reference,
)

pytestmark = pytest.mark.relion

N = 2000


def crowded_poses(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rotation vectors (n, 3): half of the views within some 25 degrees of three directions, the others anywhere."""
    any_view = Rotation.random(n, random_state=rng)
    preferred = Rotation.random(3, random_state=rng)[rng.integers(0, 3, n)]
    in_plane = Rotation.from_rotvec(rng.uniform(-np.pi, np.pi, (n, 1)) * [[0.0, 0.0, 1.0]])
    near = in_plane * Rotation.from_rotvec(rng.normal(scale=0.25, size=(n, 3))) * preferred
    crowded = rng.uniform(size=n) < 0.5
    vectors = np.where(crowded[:, None], near.as_rotvec(), any_view.as_rotvec())
    vectors[:2] = [[0, 0, 0], [np.pi, 0, 0]]  # and the degenerate ones
    return vectors


def dataset() -> Record:
    """Particles aligned at twice the pixel of the images, in two exposure groups, without aberrations."""
    rng = np.random.default_rng(8)
    record = particles_record(N)
    record["blob/path"], record["blob/idx"] = b"proj.mrcs", np.arange(N)
    record["blob/shape"], record["blob/psize_A"], record["blob/sign"] = BOX, PIXEL_A, 1
    record["alignments3D/psize_A"] = 2 * PIXEL_A
    record["alignments3D/shift"] /= 4  # within 6 Å
    record["alignments3D/pose"] = crowded_poses(N, rng)
    record["ctf/df1_A"] = rng.normal(14_000, 1_500, N)
    record["ctf/df2_A"] = record["ctf/df1_A"] - rng.uniform(0, 500, N)
    for field in ("phase_shift_rad", "tilt_A", "anisomag"):
        record[f"ctf/{field}"] = 0
    return record


@pytest.mark.parametrize(("noise", "truth_above"), [(0.01, 0.99), (1.0, 0.9)])
def test_same_map_from_both_files(noise: float, truth_above: float, tmp_path: Path) -> None:
    particles = read_particles(save(tmp_path / "particles.cs", dataset()), tmp_path)
    write_particles_star(particles, tmp_path / "particles.star")
    write_map(tmp_path / "ref.mrc", reference().numpy(), PIXEL_A, None)
    project_images(tmp_path, "particles.star", "proj", noise)
    theirs = reconstruct_with_relion(tmp_path, "particles.star", "relion.mrc")
    settings = PreprocessSettings(normalise=False, storage="float32")
    ours = backproject(open_images(particles, tmp_path / "store", settings)).solve()
    agreement, truth = fsc(ours, theirs, MASK), fsc(ours, reference(), MASK)
    print(f"noise {noise}: agreement {agreement.round(4)}, FSC to the truth {truth.round(4)}")
    assert agreement[1 : BOX // 4 + 1].min() > 0.99  # every shell to half of Nyquist
    assert truth[1 : BOX // 4 + 1].min() > truth_above  # both could agree and be wrong
