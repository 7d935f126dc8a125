"""Log-likelihoods of poses, for candidates that images share and for candidates of their own.

With whitened coefficients y, c = CTF / sigma, a slice P of the model and the phases of a shift t (Zhong 2022, eq. 5.1),

    y = c exp(-2 pi i k.t / D) P + n,    E|n|² = 1,

the log-likelihood of a pose, in nats and relative to an image without any particle, is

    sum_k m_k (Re <exp(-2 pi i k.t / D) P, c y> - |c P|² / 2),    m = 2, and 1 at k = 0 (the half plane's partners).

The first term is linear in the slice and in the shifted image, the second knows nothing of the image but its CTF: for
a set of rotations and shifts that all images share, both are matrix products (Zhong 2022, 5.3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryodrgn_ext.fourier.block_sizes import block_size, in_blocks
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.kernels import products
from cryodrgn_ext.pose.mirrors import Mirrors, quads_of
from cryodrgn_ext.pose.model import LinearModel, SharedSlices, SliceModel, VolumeModel, as_model
from cryodrgn_ext.pose.particle_scale import ParticleScale, at_best_scale_
from cryodrgn_ext.pose.shared_scores import SharedScores, squared

DEFAULT_MEMORY_BYTES = 1 << 30
CACHE_BYTES = 1 << 23  # scores that are reduced while they are still in a CPU's cache
ROWS_PER_LOAD = 2048

#: What is done with scores (b, T, g) of some images (b of them) and rotations (g,), before they are overwritten.
OF_SEARCH = "images of the search"
Reducer = Callable[[slice | Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Top:
    """The best rotations of each image, each with its best shift, best first.

    Attributes
    ----------
    rotation : Tensor
        (B, K) int64 into the candidates' rotations.
    shift : Tensor
        (B, K) int64 into the candidates' shifts.
    log_likelihood : Tensor
        (B, K) float32.
    """

    rotation: Tensor
    shift: Tensor
    log_likelihood: Tensor


class Scorer:
    """Some images at a band, ready to be held against models.

    The poses that the images have are not used.

    Parameters
    ----------
    images : ParticleImages
    rows : Tensor, optional
        (B,) int64 particle rows, all when omitted. They are held in memory: 12 bytes per image and coefficient.
    radius : float, optional
        Largest |k| that can be asked for, in cycles per box; all coefficients when omitted.
    device : torch.device or str, optional
        Where to compute; where the poses of the images are when omitted.
    memory_bytes : int
        Bound of everything that is made besides the images and the results.
    scale_precision : float, optional
        Of the particle scale about 1, which is then the best one for every pose, see :mod:`.particle_scale`.
    """

    def __init__(
        self,
        images: ParticleImages,
        rows: Tensor | None = None,
        radius: float | None = None,
        device: torch.device | str | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        scale_precision: float | None = None,
    ) -> None:
        self.scale_precision = scale_precision
        self.rows = torch.arange(images.n) if rows is None else rows.cpu()
        self.plane = images.plane
        self.box_size = images.box_size
        self.device = torch.device(images.rotation.device if device is None else device)
        self.memory_bytes = memory_bytes
        count = images.source.n_coefficients if radius is None else self.plane.prefix(radius)
        if not 1 <= count <= images.source.n_coefficients:
            raise ValueError(f"radius {radius} is beyond the {images.source.n_coefficients} coefficients of the images")
        self.kxy = self.plane.kxy[:count].to(self.device)
        upright = images.with_poses(Poses.unknown(images.n))
        multiplicity = self.plane.multiplicity[:count].to(self.device)
        n = len(self.rows)
        self.data = torch.empty(n, count, dtype=torch.complex64, device=self.device)
        self.power = torch.empty(n, count, device=self.device)
        for start in range(0, n, ROWS_PER_LOAD):
            part = slice(start, start + ROWS_PER_LOAD)
            batch = upright.batch(self.rows[part], count, self.device)
            self.data[part] = batch.coefficients * (batch.ctf * multiplicity)
            self.power[part] = batch.ctf.square() * multiplicity
        #: (B, 2, 2): an image's plane is frequency_matrix @ R[:2].
        self.frequency_matrix = upright.planes(self.rows)[:, :, :2].to(self.device)

    def __len__(self) -> int:
        return len(self.rows)

    def count(self, radius: float | None) -> int:
        """Number of leading coefficients with |k| <= radius; all that are held when None."""
        return len(self.kxy) if radius is None else min(self.plane.prefix(radius), len(self.kxy))

    # ------------------------------------------------------------------------------- candidates that images share

    def best_shift(
        self,
        model: SliceModel | FourierVolume,
        rotation: Float[Tensor, "G 3 3"],
        shift_px: Float[Tensor, "T 2"],
        radius: float | None = None,
    ) -> tuple[Float[Tensor, "B G"], Int[Tensor, "B G"]]:
        """Best shift of every rotation.

        Parameters
        ----------
        model : SliceModel or FourierVolume
        rotation : Tensor
            (G, 3, 3) from model to image coordinates.
        shift_px : Tensor
            (T, 2) displacements x, y in pixels of the working box.
        radius : float, optional
            Largest |k| that counts.

        Returns
        -------
        Tensor, Tensor
            (B, G) float32 log-likelihoods and (B, G) int16 shifts.
        """
        value = torch.empty(len(self), len(rotation), device=self.device)
        shift = torch.empty(len(self), len(rotation), dtype=torch.int16, device=self.device)

        def reduce(where: slice | Tensor, columns: Tensor, scores: Tensor) -> None:
            best = scores.max(1)
            value[where] = value[where].index_copy(1, columns, best.values)
            shift[where] = shift[where].index_copy(1, columns, best.indices.to(torch.int16))

        self._shared(as_model(model, self.device), rotation, shift_px, radius, reduce)
        return value, shift

    def top(
        self,
        model: SliceModel | FourierVolume,
        rotation: Float[Tensor, "G 3 3"],
        shift_px: Float[Tensor, "T 2"],
        keep: int,
        radius: float | None = None,
    ) -> Top:
        """The ``keep`` best rotations of every image with their best shifts; parameters as in :meth:`best_shift`."""
        keep = min(keep, len(rotation))
        shape = (len(self), keep)
        value = torch.full(shape, -torch.inf, device=self.device)
        chosen = torch.zeros(shape, dtype=torch.int64, device=self.device)
        shift = torch.zeros(shape, dtype=torch.int64, device=self.device)

        def reduce(where: slice | Tensor, columns: Tensor, scores: Tensor) -> None:
            here = scores.amax(1).topk(min(keep, scores.shape[2]), dim=1)
            best = scores.gather(2, here.indices[:, None].expand(-1, len(shift_px), -1)).argmax(1)
            values = torch.cat([value[where], here.values], dim=1)
            rotations = torch.cat([chosen[where], columns[here.indices]], dim=1)
            shifts = torch.cat([shift[where], best], dim=1)
            order = values.argsort(dim=1, descending=True, stable=True)[:, :keep]
            best_of_all = values.gather(1, order), rotations.gather(1, order), shifts.gather(1, order)
            value[where], chosen[where], shift[where] = best_of_all

        self._shared(as_model(model, self.device), rotation, shift_px, radius, reduce)
        return Top(chosen, shift, value)

    def top_poses(
        self,
        model: SliceModel | FourierVolume,
        rotation: Float[Tensor, "G 3 3"],
        shift_px: Float[Tensor, "T 2"],
        keep: int,
        radius: float | None = None,
    ) -> Top:
        """The ``keep`` best pairs of a rotation and a shift, several shifts of one rotation among them."""
        keep = min(keep, len(rotation) * len(shift_px))
        value = torch.full((len(self), keep), -torch.inf, device=self.device)
        place = torch.zeros((len(self), keep), dtype=torch.int64, device=self.device)

        def reduce(where: slice | Tensor, columns: Tensor, scores: Tensor) -> None:
            width = scores.shape[2]
            here = scores.flatten(1).topk(min(keep, scores[0].numel()), dim=1)
            places = here.indices // width * len(rotation) + columns[here.indices % width]
            values, places = torch.cat([value[where], here.values], 1), torch.cat([place[where], places], 1)
            order = values.argsort(dim=1, descending=True, stable=True)[:, :keep]
            value[where], place[where] = values.gather(1, order), places.gather(1, order)

        self._shared(as_model(model, self.device), rotation, shift_px, radius, reduce)
        return Top(place % len(rotation), place // len(rotation), value)

    def _shared(
        self, model: SliceModel, rotation: Tensor, shift_px: Tensor, radius: float | None, reduce: Reducer
    ) -> None:
        """Call ``reduce`` for all blocks of images and rotations."""
        kxy = self.kxy[: self.count(radius)]
        quads, mirrors = quads_of(rotation), Mirrors.of(kxy)
        rotation = rotation.to(self.device, torch.float32)
        volumes = len(model.volumes) if isinstance(model, VolumeModel | LinearModel) else 1
        each = max(1, self.memory_bytes // (4 * len(kxy) * (12 + 8 * volumes)))
        for members, matrix in self._by_frequency_matrix():
            sheared = bool((matrix[0, 1] != 0) | (matrix[1, 0] != 0))
            fours = None if quads is None or sheared else quads.to(self.device)
            job = SharedScores(model, kxy, shift_px, self.box_size, None if fours is None else mirrors,
                               self.scale_precision)  # fmt: skip
            columns = torch.arange(len(rotation), device=self.device)[:, None] if fours is None else fours

            def search(here: slice) -> None:
                some = columns[here]  # noqa: B023 - called before the loop goes on
                slices = model.shared(matrix @ rotation[some[:, 0], :2], job.kxy)  # noqa: B023
                self._in_blocks(job, slices, some, members, reduce)  # noqa: B023

            in_blocks(search, len(columns), "orientations", each)

    def _by_frequency_matrix(self) -> Iterator[tuple[Tensor | None, Tensor]]:
        """Positions of images with a common frequency matrix (None for all of them), and the matrix (2, 2)."""
        every = self.frequency_matrix
        if not len(self) or torch.equal(every, every[:1].expand_as(every)):
            yield None, every[:1].sum(0)
            return
        distinct, kind = every.flatten(1).unique(dim=0, return_inverse=True)
        for number, matrix in enumerate(distinct):
            yield (kind == number).nonzero()[:, 0], matrix.view(2, 2)

    def _in_blocks(
        self, job: SharedScores, slices: SharedSlices, columns: Tensor, members: Tensor | None, reduce: Reducer
    ) -> None:
        """Call ``reduce`` with scores (b, T, g) of some images at a time against all slices and their mirrors."""
        n_shifts, count, n_slices = len(job.phases), len(job.kxy), len(columns)
        n, width = len(self) if members is None else len(members), n_slices * job.fold
        per_image = 8 * n_shifts * width + 16 * n_shifts * count + (24 * n_slices * count if job.model.per_image else 0)
        budget = self.memory_bytes // 2
        block = max(1, min(n, (min(budget, CACHE_BYTES) if self.device.type == "cpu" else budget) // per_image))
        common = None if job.model.per_image else job.sections(slices.of(self.rows[:1]))
        buffer: list[Tensor] = []

        def score(here: slice) -> None:
            size = block_size(OF_SEARCH, block)
            if not buffer or len(buffer[0]) != size:
                buffer.clear()
                buffer.append(torch.empty(size, n_shifts, job.fold, n_slices, device=self.device))
            where = here if members is None else members[here]
            data, power = self.data[where, :count], self.power[where, :count]
            if common is None:
                values = slices.of(self.rows[where if isinstance(where, slice) else where.cpu()])
                sections = job.sections(values)
            else:
                sections = common
            scores = buffer[0][: len(data)]
            job.score(data, power, *sections, scores)
            reduce(where, columns.T.flatten(), scores.flatten(2))

        in_blocks(score, n, OF_SEARCH, block)

    # -------------------------------------------------------------------------------------- candidates of its own

    def own(
        self,
        model: SliceModel | FourierVolume,
        rotation: Float[Tensor, "B K 3 3"],
        shift_px: Float[Tensor, "B K 2"],
        offset_px: Float[Tensor, "T 2"] | None = None,
        radius: float | None = None,
    ) -> Float[Tensor, "B K T"]:
        """Log-likelihoods of each image's own candidates.

        Parameters
        ----------
        model : SliceModel or FourierVolume
        rotation : Tensor
            (B, K, 3, 3).
        shift_px : Tensor
            (B, K, 2) displacement of each candidate, in pixels of the working box.
        offset_px : Tensor, optional
            (T, 2) added to it; only the origin when omitted.
        radius : float, optional
            Largest |k| that counts.

        Returns
        -------
        Tensor
            (B, K, T) float32.
        """
        model = as_model(model, self.device)
        out = torch.empty(len(self), rotation.shape[1], 1 if offset_px is None else len(offset_px), device=self.device)
        for part, inner, norm in self._own_products(model, rotation, shift_px, offset_px, radius):
            out[part] = at_best_scale_(inner, norm[..., None], self.scale_precision)
        return out

    def scales(
        self, model: SliceModel | FourierVolume, poses: Poses, precision: float, radius: float | None = None
    ) -> ParticleScale:
        """Scale of the particle in every image at a pose (B,) of its own."""
        parts = list(
            self._own_products(
                as_model(model, self.device), poses.rotation[:, None], poses.shift_px[:, None], None, radius
            )
        )
        product, power = torch.cat([p[1].flatten() for p in parts]), torch.cat([p[2].flatten() for p in parts])
        return ParticleScale.of(product, power, precision)

    def scaled(self, scale: Float[Tensor, " B"]) -> Scorer:
        """The same images, of which more or less of the particle is expected, by ``scale`` (B,)."""
        other = copy(self)
        factor = scale.to(self.power)[:, None]
        other.data, other.power, other.scale_precision = self.data * factor, self.power * factor.square(), None
        return other

    def _own_products(
        self, model: SliceModel, rotation: Tensor, shift_px: Tensor, offset_px: Tensor | None, radius: float | None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Products with the image (b, K, T) and powers (b, K) of what candidates expect, for some images at a time."""
        count = self.count(radius)
        offsets = torch.zeros(1, 2) if offset_px is None else offset_px
        phases = shift_phases(self.kxy[:count], offsets.to(self.device, torch.float32), self.box_size)
        ramp = torch.cat([phases.real, phases.imag], dim=1).T.contiguous()
        packed = model.packed(self._reach(count)) if isinstance(model, VolumeModel | LinearModel) else None
        compiled = packed is not None and self.device.type == "cpu"
        each = self.memory_bytes // ((8 if compiled else 64) * rotation.shape[1] * count)
        each = max(1, min(each, CACHE_BYTES // (4 * rotation.shape[1] * count)) if compiled else each)
        for start in range(0, len(self), each):
            part = slice(start, start + each)
            planes = self.frequency_matrix[part, None] @ rotation[part].to(self.device, torch.float32)[:, :, :2]
            centre = shift_px[part].to(self.device, torch.float32)
            power = self.power[part, :count].contiguous()
            if compiled and packed is not None and isinstance(model, VolumeModel | LinearModel):
                parts = torch.view_as_real(self.data[part, :count]).movedim(-1, 0).contiguous()
                share = model.share(self.rows[part]).cpu()
                inner, norm = products(packed, share, self.kxy[:count], planes, centre, parts, power, self.box_size)
            else:
                inner, norm = self._products_torch(model, part, planes, centre, power)
            yield part, inner.flatten(2) @ ramp, norm

    def _reach(self, count: int) -> float:
        """Farthest that the first ``count`` coefficients lie from the model's origin, in cycles per box."""
        stretch = torch.linalg.matrix_norm(self.frequency_matrix, ord=2).max() if len(self) else 1.0
        return float(self.plane.norm[count - 1]) * float(stretch)

    def _products_torch(
        self, model: SliceModel, part: slice, planes: Tensor, centre: Tensor, power: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Plain form of :func:`cryodrgn_ext.pose.kernels.products`, for any model and device."""
        kxy = self.kxy[: power.shape[1]]
        values = model.own(self.rows[part], planes, kxy)
        norm = (squared(values) @ power[..., None])[..., 0]
        phases = shift_phases(kxy, centre.reshape(-1, 2), self.box_size).view(values.shape)
        inner = (values * phases).conj() * self.data[part, None, : len(kxy)]
        return torch.stack([inner.real, inner.imag], dim=2), norm
