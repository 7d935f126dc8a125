"""A point group that the particles do not have is said; one that they have is not, however the poses lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.fourier.point_groups import PointGroup, point_group
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.half_maps import default_fsc_mask, reconstruct_half_maps
from cryodrgn_ext.validation.imposed_symmetry import symmetry_fault
from tests.reconstruction.specimens import BOX, density, images_of

CPU = torch.device("cpu")


def symmetrised(group: PointGroup) -> Tensor:
    """Blobs at all places to which a group takes four of them: (D, D, D) with exactly that symmetry."""
    axis = np.arange(BOX) - BOX // 2
    x = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")[::-1], axis=-1)
    volume = np.zeros((BOX, BOX, BOX))
    for place, height in (((7, 1, 3), 1.0), ((3, 5, -6), 1.6), ((-2, 4, 8), 0.8), ((6, -5, 1), 1.2)):
        for rotation in group.rotations:
            volume += height * np.exp(-((x - rotation @ place) ** 2).sum(axis=-1) / 6)
    return torch.from_numpy(volume).float() * (20 / group.order)


def fault(images: ParticleImages, name: str) -> str | None:
    mask = default_fsc_mask(BOX)
    halves = reconstruct_half_maps(images, mask=mask, symmetry=point_group(name))
    return symmetry_fault(images, halves, mask, CPU, Monitor())


@pytest.mark.parametrize("name", ["C2", "C4", "D3", "T"])
def test_a_symmetry_that_the_particles_have_is_no_fault(name: str) -> None:
    assert fault(images_of(symmetrised(point_group(name)), 600, noise=6.0), name) is None


@pytest.mark.parametrize("name", ["C4", "D3", "O"])
def test_poses_in_one_asymmetric_unit_are_no_fault(name: str) -> None:
    """Refinements that impose a symmetry search one unit only."""
    group = point_group(name)
    images = images_of(symmetrised(group), 600, noise=6.0)
    copies = images.rotation.double()[:, None] @ torch.from_numpy(group.rotations)
    nearest = copies.diagonal(dim1=2, dim2=3).sum(dim=2).argmax(dim=1)  # to the identity
    within = copies[torch.arange(images.n), nearest].float()
    assert not torch.equal(within, images.rotation)
    assert fault(replace(images, rotation=within), name) is None


@pytest.mark.parametrize(("has", "imposed"), [("C1", "C2"), ("C1", "C7"), ("C2", "C4"), ("C3", "D3")])
def test_a_symmetry_that_the_particles_do_not_have_is_said(has: str, imposed: str) -> None:
    volume = density() if has == "C1" else symmetrised(point_group(has))
    said = fault(images_of(volume, 600, noise=4.0), imposed)
    assert said is not None
    assert f"do not have the symmetry {imposed}" in said


def test_axes_of_another_program_are_said() -> None:
    """D3 with its two-fold axis along y, where RELION's is along x."""
    images = images_of(symmetrised(point_group("D3")), 600, noise=4.0)
    turn = torch.from_numpy(Rotation.from_euler("z", 90, degrees=True).as_matrix()).float()
    assert fault(replace(images, rotation=images.rotation @ turn), "D3") is not None
    assert fault(replace(images, rotation=images.rotation @ turn @ turn), "D3") is None


def test_noise_speaks_against_nothing() -> None:
    assert fault(images_of(torch.zeros(BOX, BOX, BOX), 400, noise=1.0), "C2") is None
