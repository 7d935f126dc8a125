#!/usr/bin/env python
"""The "hand" of Zhong 2022 as a map, from the hundred noiseless projections that are public.

    python benchmarks/hand_map.py hand.mrcs hand.mrc [--starts 8] [--threads 2]

The hand of Zhong 2022, table 5.2, is public as 100 projections of 64 px (``testing/data/hand.mrcs`` in the history of
the repository ml-struct-bio/cryodrgn). The map beside them there, ``hand-vol.mrc``, is not a hand but a speckled blob
that changes sign, and the poses beside them explain the images to a correlation of 0.96 only, in any sign, order and
transposition of their axes. So the map is found ab initio: random initialisations, the likeliest of them refined to all
frequencies, and the projections of the result are compared with the images. Projections of it are then what

    python benchmarks/abinit_quality.py --sets map-noiseless map map-ctf --map hand.mrc

reconstructs from random orientations.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mrcfile
import numpy as np
import torch
from torch import Tensor

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierGrid, FourierVolume, slice_points
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.local import DifferentiableVolume, refine_poses
from cryodrgn_ext.pose.random_initialisations import make_initialisation
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.backprojection import backproject

PIXEL_SIZE_A = 6.0  # table 5.6
SHIFT_PX, RADIUS_PX = 7.0, 27.0
SNR = 25.0  # noise that the images are taken to have: a likelihood needs some
PRECISION = 1e-7  # of the map's values: next to no prior, as there is no noise
BANDS = [12] * 3 + [band for band in range(14, 31, 2) for _ in range(3)]


def backprojected(images: ParticleImages, radius: int, mask: Tensor) -> Tensor:
    """Map that is positive and within the mask."""
    sums = backproject(images, grid=FourierGrid(images.box_size, radius))
    prior = torch.full((radius + 1,), PRECISION, dtype=torch.float64)
    return (sums.solve(prior) * mask).clamp_min(0)


def correlation(images: ParticleImages, volume: Tensor, radius: int) -> float:
    """Correlation of all images with the map's projections, without the mean, up to ``radius``."""
    count = images.plane.prefix(radius)
    kxy, weight = images.plane.kxy[1:count], images.plane.multiplicity[1:count]
    made = FourierVolume.from_map(volume).slice(slice_points(kxy, images.rotation))
    made = made * shift_phases(kxy, images.shift_px, images.box_size)
    seen = images.source.gather(torch.arange(images.n), count)[:, 1:]
    dot = (weight * (made.conj() * seen).real).sum()
    return float(dot / ((weight * made.abs() ** 2).sum() * (weight * seen.abs() ** 2).sum()).sqrt())


def main() -> None:
    """Find the map and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("map", type=Path)
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    with mrcfile.open(given.images, permissive=True) as handle:
        pictures = torch.from_numpy(np.array(handle.data, dtype=np.float32))
    n, box = len(pictures), pictures.shape[-1]
    eye = torch.eye(3).expand(n, 3, 3)
    images = ParticleImages.from_tensors(
        pictures, eye, torch.zeros(n, 2), PIXEL_SIZE_A, None, pixel_noise_sd=float(pictures.std()) / SNR**0.5
    )
    settings = ReconstructSettings(max_shift_px=SHIFT_PX, mask_radius_px=RADIUS_PX)
    made = []
    for seed in range(given.starts):
        made.append(make_initialisation(images, torch.arange(n), settings, seed, SilentMonitor()))
        print(f"seed {seed}: {made[-1].log_likelihood:.0f} nats per image", flush=True)
    best = max(made, key=lambda one: one.log_likelihood)
    mask = spherical_mask(box, RADIUS_PX - 1, 2)
    images = images.with_poses(best.poses)
    for band in BANDS:
        volume = backprojected(images, min(band + 2, images.plane.radius), mask)
        field = DifferentiableVolume.from_maps(volume[None], band + 1)
        found = refine_poses(Scorer(images, torch.arange(n), band), field, images.poses, float(band), iterations=4)
        images = images.with_poses(found.poses)
    volume = backprojected(images, images.plane.radius, mask)
    print(f"correlation of images and projections: {correlation(images, volume, BANDS[-1]):.4f}")
    with atomic_path(given.map) as temporary, mrcfile.new(temporary, overwrite=True) as handle:
        handle.set_data(volume.numpy())
        handle.voxel_size = PIXEL_SIZE_A


if __name__ == "__main__":
    main()
