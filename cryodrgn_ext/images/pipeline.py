"""From pixels to coefficients, optics group by optics group; and from coefficients to :class:`ParticleImages`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.aberrations import antisymmetric_phase, even_zernike_phase, frequencies_per_A, phase_factor
from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.images.background import SMALLEST, BackgroundSurface, LevelledImages, curvature_excess
from cryodrgn_ext.images.coefficient_source import CoefficientSource
from cryodrgn_ext.images.geometry import WorkingGeometry, crop_index, crop_transform
from cryodrgn_ext.images.image_statistics import Status, statistics_of
from cryodrgn_ext.images.image_table import ImageTable
from cryodrgn_ext.images.outlier_pixels import Repaired, outlier_threshold, repair_outliers, suspicious_images
from cryodrgn_ext.images.particle_images import GroupOptics, ParticleImages
from cryodrgn_ext.images.preprocessing import PreprocessSettings, image_window
from cryodrgn_ext.images.stacks import ImageStacks
from cryodrgn_ext.metadata.half_sets import choose_half_sets
from cryodrgn_ext.metadata.particles import OpticsGroup, ParticleSet

#: Seed of the random split into half-sets where the metadata have none.
HALF_SET_SEED = 0
#: Pixels of images whose background is normalised at a time.
PIECE_PIXELS = 1 << 18
#: Curvature of a group's backgrounds, over that of noise, from which it is fitted.
CURVED = 3.0


@dataclass(frozen=True)
class GroupPipeline:
    """Preprocessing of one optics group's images."""

    box_size: int
    background: BackgroundSurface
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
        #: Of each group, as measured on a sample; planes, and no outliers, before.
        self.background_order = [1] * len(self.groups)
        self.outlier_sd = [math.inf] * len(self.groups)
        self.optics = tuple(self._optics(g, optics) for g, optics in enumerate(particles.optics))

    def _group(self, optics: OpticsGroup, box: int) -> GroupPipeline:
        index, sign = crop_index(self.geometry.plane, box)
        frequency = frequencies_per_A(
            self.geometry.plane.kxy, optics.pixel_size_A, box, torch.tensor(optics.mag_matrix, dtype=torch.float64)
        )
        odd = antisymmetric_phase(frequency, optics.odd_zernike, optics.beam_tilt_mrad, optics.cs_mm, optics.voltage_kV)
        return GroupPipeline(
            box,
            BackgroundSurface.make(box, self.settings.background_radius * box),
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

    def learn_background(self, g: int, rows: NDArray[np.int64], chunk_bytes: int) -> None:
        """Order of the background's surface and threshold of outlier pixels of group ``g``, from a sample of images."""
        group = self.groups[g]
        sample = [images for chunk in self.chunks(rows, chunk_bytes) for _, _, images in self.read(chunk)]
        if not sample or not self.settings.normalise:
            return
        normalised = torch.cat([group.background.level(images).normalised() for images in sample])
        order = 2 if curvature_excess(normalised, group.background.outside) > CURVED else 1
        self.use_background(g, order, math.inf)
        levelled = [self.groups[g].background.level(images) for images in sample]
        members = int((self.table.group == g).sum())
        peaks = torch.cat([part.peak / part.sd for part in levelled])
        self.outlier_sd[g] = outlier_threshold(members * group.box_size**2, peaks)

    def use_background(self, g: int, order: int, outlier_sd: float) -> None:
        """Take over what was learnt before of group ``g``."""
        group, radius = self.groups[g], self.settings.background_radius * self.groups[g].box_size
        self.groups[g] = replace(group, background=BackgroundSurface.make(group.box_size, radius, order))
        self.background_order[g], self.outlier_sd[g] = order, outlier_sd

    def normalise(self, g: int, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise the background of images of group ``g``, and replace outlier pixels.

        Returns
        -------
        (normalised, statistics) : (B, D, D), (B, 6) float32
            Images that cannot be used are 0; see :class:`cryodrgn_ext.images.image_statistics.ImageStatistics`.
        """
        background, group = self.groups[g].background, self.groups[g]
        pieces = images.split(max(1, PIECE_PIXELS // group.box_size**2))
        normalised, facts, suspects = torch.empty_like(images), list[Tensor](), list[Tensor]()
        for piece, out in zip(pieces, normalised.split(len(pieces[0])), strict=True):
            levelled = background.level(piece)
            if self.settings.normalise:
                suspects.append(
                    suspicious_images(levelled, background, self.outlier_sd[g]) + len(pieces[0]) * len(facts)
                )
            facts.append(self._finish(levelled, piece, out))
        found = torch.cat(facts)
        if self.settings.normalise and len(rows := torch.cat(suspects)):
            repaired = repair_outliers(images[rows], background, self.outlier_sd[g])
            out = torch.empty_like(repaired.images)
            found[rows] = self._finish(background.level(repaired.images), repaired.images, out, repaired)
            normalised[rows] = out
        return normalised, found

    def _finish(
        self, levelled: LevelledImages, images: Tensor, out: Tensor, repaired: Repaired | None = None
    ) -> Tensor:
        """Write normalised images to ``out``, those that cannot be used as 0; returns their statistics (B, 6)."""
        status = torch.full((len(images),), int(Status.USABLE))
        if repaired is not None:
            broken = repaired.not_finite > repaired.count // 2
            why = torch.where(broken, int(Status.NOT_FINITE), int(Status.DESTROYED))
            status = torch.where(repaired.is_lost, why, status)
        if self.settings.normalise:
            status[levelled.is_constant & (status == Status.USABLE)] = int(Status.CONSTANT)
            torch.mul(levelled.images, levelled.sd.clamp_min(SMALLEST).reciprocal()[:, None, None], out=out)
        else:
            out.copy_(images)
        status[~torch.isfinite(levelled.peak) & (status == Status.USABLE)] = int(Status.NOT_FINITE)
        out[(status != Status.USABLE).nonzero()[:, 0]] = 0.0
        slope = levelled.plane[:, 1:3].norm(dim=1) / levelled.sd
        count = torch.zeros_like(status) if repaired is None else repaired.count
        return statistics_of(levelled.plane[:, 0], levelled.sd, slope, levelled.peak / levelled.sd, count, status)

    def refuse_useless(self, rows: NDArray[np.int64], status: NDArray[np.floating]) -> None:
        """Refuse images most of which are useless: that is no fault of some of them.

        Raises
        ------
        InputError
            Naming the first one, with what to do.
        """
        bad = np.flatnonzero(status != Status.USABLE)
        if 2 * len(bad) <= len(rows):
            return
        name, first = self.name(int(rows[bad[0]])), Status(int(status[bad[0]]))
        many = f"so have {len(bad)} of {len(rows)} images that were looked at"
        if first == Status.CONSTANT:
            raise InputError(
                f"{name} has a constant background, so it cannot be normalised, and {many}: remove blank images, or "
                "switch normalisation off for noiseless simulations"
            )
        raise InputError(f"{name} has {first.reason}, and {many}: these are no images of particles")

    def transform(self, g: int, images: Tensor, gain: Tensor) -> Tensor:
        """(B, M) complex64: windowed normalised images, Fourier-cropped, times ``gain`` (M,)."""
        return crop_transform(images * self.groups[g].window, self.groups[g].index, gain)

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
    """ParticleImages around a source; ``native_sigma`` (G, D // 2 + 1) is in the units of the native images."""
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
