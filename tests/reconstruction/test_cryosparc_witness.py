"""A .cs converted to a STAR file reconstructs, in RELION's hands, the map that we make from the .cs itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.imaging.fsc import fsc
from cryodrgn_ext.metadata.particles import read_particles
from tests.metadata.cs_data import Record, particles_record, save
from tests.reconstruction.test_relion_reconstruct_witness import (
    BOX,
    MASK,
    PIXEL_A,
    project_images,
    reconstruct,
    reconstruct_with_relion,
    reference,
)

pytestmark = pytest.mark.relion


def dataset(n: int) -> Record:
    """Particles aligned at twice the pixel of the images, in two exposure groups, without aberrations."""
    record = particles_record(n)
    record["blob/path"], record["blob/idx"] = b"proj.mrcs", np.arange(n)
    record["blob/shape"], record["blob/psize_A"], record["blob/sign"] = BOX, PIXEL_A, 1
    record["alignments3D/psize_A"] = 2 * PIXEL_A
    record["alignments3D/shift"] /= 4  # within 6 Å
    for field in ("phase_shift_rad", "tilt_A", "anisomag"):
        record[f"ctf/{field}"] = 0
    return record


def least_agreement(record: Record, directory: Path) -> float:
    """Least FSC, up to half of Nyquist, of RELION's map from the converted file and ours from the .cs."""
    particles = read_particles(save(directory / "particles.cs", record), directory)
    particles.write_star(directory / "particles.star")
    write_map(directory / "ref.mrc", reference().numpy(), PIXEL_A)
    project_images(directory, "particles.star", "proj", 1.0)
    theirs = reconstruct_with_relion(directory, "particles.star", "relion.mrc")
    ours = torch.from_numpy(reconstruct(directory, "particles.cs", directory / "store").map)
    truth = fsc(ours, reference(), MASK)
    assert truth[1 : BOX // 8].min() > 0.9  # both could agree and be wrong
    return float(fsc(ours, theirs, MASK)[1 : BOX // 4 + 1].min())


def test_same_map_from_both_files(tmp_path: Path) -> None:
    assert least_agreement(dataset(1200), tmp_path) > 0.99
