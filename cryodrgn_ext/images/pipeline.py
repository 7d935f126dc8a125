"""From pixels to coefficients, optics group by optics group; and from coefficients to :class:`ParticleImages`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.aberrations import antisymmetric_phase, even_zernike_phase, frequencies_per_A, phase_factor
from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.images.geometry import WorkingGeometry, crop_index, crop_transform
from cryodrgn_ext.images.particle_images import CoefficientSource, GroupOptics, ParticleImages
from cryodrgn_ext.images.preprocessing import (
    PreprocessSettings,
    image_window,
    normalise_background,
    outside_circle,
)
from cryodrgn_ext.images.stacks import ImageStacks
from cryodrgn_ext.images.store import ImageTable
from cryodrgn_ext.metadata.half_sets import choose_half_sets
from cryodrgn_ext.metadata.particles import OpticsGroup, ParticleSet

#: Seed of the random split into half-sets where the metadata have none.
HALF_SET_SEED = 0


@dataclass(frozen=True)
class GroupPipeline:
    """Preprocessing of one optics group's images."""

    box_size: int
    background: Tensor
    window: Tensor
    index: Tensor
    sign: Tensor  # (M,) complex: phase origin, absent frequencies, demodulation of odd aberrations


class Pipeline:
    """Reads images and turns them into coefficients, group by group."""

    def __init__(self, particles: ParticleSet, settings: PreprocessSettings) -> None:
        self.particles, self.settings = particles, settings
        self.table = ImageTable.make(
            particles.stack_paths, particles.stack_id, particles.stack_index, particles.optics_index
        )
        self.stacks = ImageStacks(particles.stack_paths)
        boxes = _native_boxes(particles, self.table, self.stacks)
        members = np.bincount(particles.optics_index, minlength=len(particles.optics))
        self.geometry = WorkingGeometry.make(
            boxes,
            [group.pixel_size_A for group in particles.optics],
            settings.box_size,
            settings.radius,
            reference=int(members.argmax()),
        )
        self.groups = [self._group(optics, box) for optics, box in zip(particles.optics, boxes, strict=True)]
        self.optics = tuple(self._optics(g, optics) for g, optics in enumerate(particles.optics))

    def _group(self, optics: OpticsGroup, box: int) -> GroupPipeline:
        index, sign = crop_index(self.geometry.plane, box)
        frequency = frequencies_per_A(
            self.geometry.plane.kxy, optics.pixel_size_A, box, torch.tensor(optics.mag_matrix, dtype=torch.float64)
        )
        odd = antisymmetric_phase(frequency, optics.odd_zernike, optics.beam_tilt_mrad, optics.cs_mm, optics.voltage_kV)
        return GroupPipeline(
            box,
            outside_circle(box, self.settings.background_radius * box),
            image_window(self.settings, box, optics.pixel_size_A),
            index,
            sign * phase_factor(odd).conj(),
        )

    def _optics(self, g: int, optics: OpticsGroup) -> GroupOptics:
        matrix = torch.tensor(optics.mag_matrix, dtype=torch.float64)
        offset = None
        if any(optics.even_zernike):
            frequency = frequencies_per_A(self.geometry.plane.kxy, optics.pixel_size_A, self.groups[g].box_size, matrix)
            offset = even_zernike_phase(optics.even_zernike, frequency)
        return GroupOptics(
            gamma_offset=offset,
            mag_matrix=None if torch.equal(matrix, torch.eye(2, dtype=torch.float64)) else matrix,
            premultiplied=optics.ctf_premultiplied,
        )

    def name(self, row: int) -> str:
        """Image ``row`` of the table, for messages."""
        return f"image {int(self.table.section[row]) + 1}@{self.table.stack_paths[int(self.table.stack[row])]}"

    def read(self, rows: NDArray[np.int64]) -> list[tuple[int, Tensor, Tensor]]:
        """Images of table rows by group: (group, positions within ``rows``, (B, D, D) float32)."""
        out = []
        for g in np.unique(self.table.group[rows]).tolist():
            position = np.flatnonzero(self.table.group[rows] == g)
            chosen = rows[position]
            images = self.stacks.read(self.table.stack[chosen], self.table.section[chosen], self.groups[g].box_size)
            out.append((g, torch.from_numpy(position), torch.from_numpy(images)))
        return out

    def normalise(self, g: int, images: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Images of group ``g`` with normalised background.

        Raises
        ------
        InputError
            Naming the first image with a constant background or with pixels that are not finite.
        """
        normalised, mean, sd = normalise_background(images, self.groups[g].background)
        bad = ~torch.isfinite(mean + sd)
        if bool(bad.any()):
            raise InputError(f"{self.name(int(rows[int(bad.nonzero()[0])]))} holds pixels that are not finite numbers")
        if not self.settings.normalise:
            return images
        flat = sd <= 1e-6 * mean.abs().clamp_min(1e-30)
        if bool(flat.any()):
            raise InputError(
                f"{self.name(int(rows[int(flat.nonzero()[0])]))} has a constant background, so it cannot be "
                "normalised: remove blank images, or switch normalisation off for noiseless simulations"
            )
        return normalised

    def transform(self, g: int, images: Tensor, gain: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """(B, M) complex64: windowed normalised images, Fourier-cropped, times ``gain`` (M,)."""
        values = crop_transform(images * self.groups[g].window, self.groups[g].index, gain)
        bad = ~torch.isfinite(torch.view_as_real(values[:, 0])).all(1)
        if bool(bad.any()):
            raise InputError(f"{self.name(int(rows[int(bad.nonzero()[0])]))} holds pixels that are not finite numbers")
        return values

    def chunks(self, rows: NDArray[np.int64], chunk_bytes: int) -> list[NDArray[np.int64]]:
        """``rows`` in pieces whose images and temporaries stay within ``chunk_bytes``."""
        largest = max(group.box_size for group in self.groups)
        size = max(1, chunk_bytes // (5 * 4 * largest**2))
        return [rows[start : start + size] for start in range(0, len(rows), size)]


def _native_boxes(particles: ParticleSet, table: ImageTable, stacks: ImageStacks) -> list[int]:
    """Box of each optics group, from the metadata or else from its first stack."""
    boxes: list[int | None] = []
    for g, optics in enumerate(particles.optics):
        first = np.flatnonzero(table.group == g)[:1]
        if len(first) and optics.box_size is None:
            boxes.append(stacks.header(int(table.stack[first[0]])).nx)
        else:
            boxes.append(optics.box_size if len(first) else None)
    known = [box for box in boxes if box is not None]
    if not known:
        raise InputError(f"{particles.path}: there are no particles to read images of")
    return [known[0] if box is None else box for box in boxes]


def ctf_parameters(particles: ParticleSet) -> CtfParameters:
    """CTF parameters (float64) of each particle, those of its optics group included."""
    index = particles.optics_index

    def of_group(name: str) -> Tensor:
        return torch.from_numpy(np.array([getattr(group, name) for group in particles.optics], np.float64)[index])

    return CtfParameters(
        voltage_kV=of_group("voltage_kV"),
        cs_mm=of_group("cs_mm"),
        amplitude_contrast=of_group("amplitude_contrast"),
        **{name: torch.from_numpy(np.array(value)) for name, value in asdict(particles.ctf).items()},
    )


def assemble(
    pipeline: Pipeline, source: CoefficientSource, native_sigma: Tensor, window_power: Tensor
) -> ParticleImages:
    """ParticleImages around a source; ``native_sigma`` (G, D // 2) is in the units of the native images."""
    particles, geometry = pipeline.particles, pipeline.geometry
    pixel_A = torch.tensor([group.pixel_size_A for group in geometry.groups], dtype=torch.float64)
    scale = torch.tensor([group.value_scale for group in geometry.groups], dtype=torch.float64)
    optics_index = torch.from_numpy(particles.optics_index.astype(np.int64))
    rotation = (
        torch.from_numpy(np.array(particles.rotation, np.float32))
        if particles.has_poses
        else torch.full((particles.n, 3, 3), torch.nan)
    )
    shift_A = torch.from_numpy(np.nan_to_num(np.array(particles.shift_A, np.float64)))
    return ParticleImages(
        source=source,
        geometry=geometry,
        particles=particles,
        rotation=rotation,
        shift_px=(shift_A / pixel_A[optics_index][:, None]).float(),
        ctf_parameters=ctf_parameters(particles),
        optics=pipeline.optics,
        half_set=torch.from_numpy(choose_half_sets(particles, HALF_SET_SEED).half_set.astype(np.int8)),
        optics_index=optics_index,
        noise_sigma=(native_sigma.double() * scale[:, None]).float(),
        window_power=window_power,
    )
