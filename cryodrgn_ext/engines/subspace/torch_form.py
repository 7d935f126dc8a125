"""Plain torch forms of the kernels: for GPUs, and the oracle of the compiled ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Complex64, Float, Float32, Float64, Int64, Integer
from torch import Tensor

from cryodrgn_ext.engines.subspace import device_form, kernels
from cryodrgn_ext.engines.subspace.grid import ComponentGrid
from cryodrgn_ext.engines.subspace.tiles import Tiles
from cryodrgn_ext.fourier.block_sizes import in_blocks
from cryodrgn_ext.fourier.compilation import threads_of_torch
from cryodrgn_ext.fourier.slices import RIM, FourierVolume
from cryodrgn_ext.fourier.trilinear import corner_weights

FLOATS_PER_STEP = 1 << 25  # bounds temporaries of the torch forms to a few hundred MB


@dataclass(frozen=True)
class Chunk:
    """Some images at a band, as the kernels eat them.

    Attributes
    ----------
    rows : Tensor
        (B,) int64 particle rows, on the CPU.
    values : Tensor
        (B, M) complex64, whitened and centred.
    whitened_ctf : Tensor
        (B, M) float32 CTF over noise.
    planes : Tensor
        (B, 2, 3) float32: the point of (kx, ky) is kx planes[0] + ky planes[1].
    """

    rows: Int64[Tensor, " B"]
    values: Complex64[Tensor, "B M"]
    whitened_ctf: Float32[Tensor, "B M"]
    planes: Float32[Tensor, "B 2 3"]
    _tiles: list[Tiles] = field(default_factory=list, init=False, repr=False, compare=False)

    def images(self, here: slice) -> Chunk:
        """Some of the images, without copying."""
        return Chunk(self.rows[here], self.values[here], self.whitened_ctf[here], self.planes[here])


@dataclass(frozen=True)
class Operators:
    """Interpolation of all components at a band, and its adjoint.

    Attributes
    ----------
    grid : ComponentGrid
        Its radius is that of the band.
    base : FourierVolume
        Consensus.
    kxy : Tensor
        (M, 2) float32 coefficients, in rows.
    """

    grid: ComponentGrid
    base: FourierVolume
    kxy: Float32[Tensor, "M 2"]
    _moved: dict[torch.device, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def on(self, device: torch.device) -> tuple[Float32[Tensor, "M 2"], Int64[Tensor, "Z Z"]]:
        """Coefficients and the grid's table on a device; copied there once."""
        if device not in self._moved:
            self._moved[device] = self.kxy.to(device), self.grid.table.to(device)
        return self._moved[device]

    @property
    def limit2(self) -> np.float32:
        """Square of the largest |k| that counts."""
        return np.float32((self.grid.radius + RIM) ** 2)

    def tiles(self, chunk: Chunk) -> Tiles:
        """Coefficients of a chunk by cubes of the volume; sorted once."""
        if not chunk._tiles:
            limit2 = float(self.limit2)
            chunk._tiles.append(Tiles.sort(self.kxy, chunk.planes, chunk.whitened_ctf, limit2, self.grid.half))
        return chunk._tiles[0]

    def gram(
        self, components: Float32[Tensor, "V 2 Qp"], n_columns: int, chunk: Chunk
    ) -> tuple[Float32[Tensor, "B Q Q"], Float32[Tensor, "B Q"]]:
        """Inner products (B, Q, Q) of the model terms, and (B, Q) with the images; see :func:`kernels.gram`.

        Parameters
        ----------
        components : Tensor
            (V, 2, Qp) float32.
        n_columns : int
            Q.
        chunk : Chunk
        """
        if components.device.type != "cpu":
            return device_form.gram(self, components, n_columns, chunk)
        inner = torch.empty(len(chunk.rows), n_columns, n_columns)
        cross = torch.empty(len(chunk.rows), components.shape[2])
        tiles = self.tiles(chunk)
        with threads_of_torch():
            kernels.gram(
                components.numpy(), self.grid.table.numpy(), self.base.data.numpy(), self.base.grid.oversampling,
                self.kxy.numpy(), chunk.planes.numpy(), chunk.values.numpy(), chunk.whitened_ctf.numpy(),
                tiles.order.numpy(), tiles.bits, tiles.start.numpy(), inner.numpy(), cross.numpy(),
            )  # fmt: skip
        return inner, cross[:, :n_columns]

    def accumulate(
        self,
        components: Float32[Tensor, "V 2 Qp"],
        chunk: Chunk,
        particle_scale: Float[Tensor, " B"],
        half_set: Integer[Tensor, " B"],
        moments: Float32[Tensor, "B Q Q"],
        weight: Float32[Tensor, "2 V L"],
        right: Float32[Tensor, "2 V 2 Qp"],
        bounds: Int64[Tensor, " slabs"],
    ) -> None:
        """Add the normal equations of a chunk to ``weight`` and ``right``; see :func:`kernels.accumulate`."""
        if components.device.type != "cpu":
            device_form.accumulate(self, components, chunk, particle_scale, half_set, moments, weight, right)
            return
        packed = upper_triangles(moments, weight.shape[2])
        wide = with_zeros(moments, moments.shape[1], components.shape[2])
        tiles = self.tiles(chunk)
        with threads_of_torch():
            kernels.accumulate(
                components.numpy(), self.grid.table.numpy(), self.base.data.numpy(), self.base.grid.oversampling,
                self.kxy.numpy(), chunk.planes.numpy(), chunk.values.numpy(), chunk.whitened_ctf.numpy(),
                tiles.order.numpy(), tiles.bits, tiles.start.numpy(), tiles.lowest.numpy(),
                particle_scale.float().numpy(), half_set.numpy(), wide.numpy(), packed.numpy(), weight.numpy(),
                right.numpy(), bounds.numpy(),
            )  # fmt: skip

    def _corners(self, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Voxels (8, B, M), trilinear weights (8, B, M; 0 outside), signs of the imaginary part, points (B, M, 3)."""
        device = chunk.values.device
        kxy, table = self.on(device)
        points = (kxy[:, :, None] * chunk.planes[:, None]).sum(2)
        flip = points[..., 0] < 0
        points = torch.where(flip[..., None], -points, points)
        inside = (points.square().sum(-1) <= float(self.limit2)) & (chunk.whitened_ctf != 0)
        safe = points * inside[..., None]
        low, weights = corner_weights(safe)
        x, y, z = low.unbind(-1)
        h = self.grid.half
        rows = [table[z + dz + h, y + dy + h] + x for dz in (0, 1) for dy in (0, 1)]
        voxels = torch.stack([row + dx for row in rows for dx in (0, 1)])
        return voxels, weights * inside, torch.where(flip, -1.0, 1.0), safe

    def _terms(self, components: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Interpolated components (B, M, 2, Qp), base (B, M, 2), image (B, M, 2), all flipped to x >= 0; corners."""
        voxels, weights, sign, points = self._corners(chunk)
        terms = torch.zeros(*voxels.shape[1:], *components.shape[1:], device=components.device)
        for voxel, weight in zip(voxels, weights, strict=True):
            terms += weight[..., None, None] * components[voxel]
        inside = weights.sum(0) > 0
        base = torch.view_as_real(self.base.slice(points) * inside)
        data = torch.view_as_real(chunk.values.contiguous()) * inside[..., None]
        data = torch.stack([data[..., 0], data[..., 1] * sign], dim=-1)
        return terms, base, data, voxels, weights

    def images_at_once(self, components: Tensor, chunk: Chunk) -> int:
        """How many images at once keep temporaries bounded."""
        return max(1, FLOATS_PER_STEP // (chunk.values.shape[1] * 4 * components.shape[2]))

    def gram_torch(
        self, components: Float[Tensor, "V 2 Qp"], n_columns: int, chunk: Chunk
    ) -> tuple[Float[Tensor, "B Q Q"], Float[Tensor, "B Q"]]:
        """Plain form of :meth:`gram`."""

        def products(here: slice) -> tuple[Tensor, Tensor]:
            part = chunk.images(here)
            terms, base, data, _, _ = self._terms(components, part)
            terms[..., 0] += base
            terms = (terms * part.whitened_ctf[..., None, None]).flatten(1, 2)[..., :n_columns]
            return terms.mT @ terms, (terms.mT @ data.flatten(1, 2)[..., None])[..., 0]

        parts = in_blocks(products, len(chunk.rows), "products of components", self.images_at_once(components, chunk))
        inner, cross = zip(*parts, strict=True)
        return torch.cat(inner), torch.cat(cross)

    def accumulate_torch(
        self,
        components: Float[Tensor, "V 2 Qp"],
        chunk: Chunk,
        particle_scale: Float[Tensor, " B"],
        half_set: Integer[Tensor, " B"],
        moments: Float[Tensor, "B Q Q"],
        weight: Float[Tensor, "2 V L"],
        right: Float[Tensor, "2 V 2 Qp"],
    ) -> None:
        """Plain form of :meth:`accumulate`; on a GPU the order of additions is not fixed."""
        q = moments.shape[1]
        packed = upper_triangles(moments, weight.shape[2])
        wide = with_zeros(moments, q, components.shape[2])
        home = half_set.to(components.device) * weight.shape[1]
        flat_weight, flat_right = weight.flatten(0, 1), right.flatten(0, 1)

        def add(here: slice) -> None:
            part = chunk.images(here)
            terms, base, data, voxels, weights = self._terms(components, part)
            gain = part.whitened_ctf * particle_scale[here, None].float()
            rest = (gain[..., None] * (data - gain[..., None] * base))[..., None] * wide[here, None, :1]
            model = (terms[..., :q].flatten(1, 2) @ wide[here]).unflatten(1, terms.shape[1:3])
            square = gain.square()
            rest = rest - square[..., None, None] * model
            del terms, base, data, model
            loads, voxels, own = weights * square, voxels + home[here, None], packed[here, None]
            # From here on sums are added to, by parts that are halved by themselves.
            for voxel, load, share in zip(voxels, loads, weights, strict=True):
                _spread(flat_weight, voxel, load, own)
                _spread(flat_right, voxel, share, rest)

        in_blocks(add, len(chunk.rows), "sums of components", self.images_at_once(components, chunk))


def upper_triangles(moments: Float[Tensor, "B Q Q"], length: int) -> Float32[Tensor, "B L"]:
    """Moments (B, Q, Q) row by row from the diagonal on, in rows of a length."""
    q = moments.shape[1]
    rows, columns = torch.triu_indices(q, q, device=moments.device).unbind(0)
    packed = torch.zeros(len(moments), length, device=moments.device)
    packed[:, : len(rows)] = moments[:, rows, columns]
    return packed


def with_zeros(moments: Float[Tensor, "B Q Q"], rows: int, columns: int) -> Float32[Tensor, "B R C"]:
    """Moments (B, Q, Q) in the corner of matrices of so many rows and columns."""
    wide = torch.zeros(len(moments), rows, columns, device=moments.device)
    wide[:, : moments.shape[1], : moments.shape[2]] = moments
    return wide


def _spread(sums: Tensor, voxel: Tensor, gain: Tensor, values: Tensor) -> None:
    """Add gain (B, M) times values (B, M or 1, ...) to sums (V, ...) at voxels (B, M)."""

    def add(here: slice) -> None:
        factor = gain[here].view(*gain[here].shape, *[1] * (values.dim() - 2))
        sums.index_add_(0, voxel[here].flatten(), (factor * values[here]).flatten(0, 1))

    in_blocks(add, len(voxel), "sums over voxels")


def solve(
    weight: Float32[Tensor, "V L"],
    right: Float32[Tensor, "V 2 Qp"],
    components: Float32[Tensor, "V 2 Qp"],
    precision: Float64[Tensor, "S Q"],
    floor: Float64[Tensor, "S Q"],
    shell: Int64[Tensor, " V"],
) -> Float32[Tensor, "V 2 Qp"]:
    """Step of every voxel (V, 2, Qp); see :func:`kernels.solve`."""
    if components.device.type != "cpu":
        return solve_torch(weight, right, components, precision, floor, shell)
    out = torch.zeros_like(components)
    with threads_of_torch():
        kernels.solve(
            weight.numpy(), right.numpy(), components.numpy(), precision.numpy(), floor.numpy(), shell.numpy(),
            out.numpy(),
        )  # fmt: skip
    return out


def solve_torch(
    weight: Float32[Tensor, "V L"],
    right: Float32[Tensor, "V 2 Qp"],
    components: Float32[Tensor, "V 2 Qp"],
    precision: Float64[Tensor, "S Q"],
    floor: Float64[Tensor, "S Q"],
    shell: Int64[Tensor, " V"],
) -> Float32[Tensor, "V 2 Qp"]:
    """Plain form of :func:`solve`, in double precision, some voxels at a time."""
    q = precision.shape[1]
    rows, columns = (index.to(weight.device) for index in torch.triu_indices(q, q).unbind(0))
    out = torch.zeros_like(components)
    shell, precision, floor = (t.to(weight.device) for t in (shell, precision, floor))

    def step(part: slice) -> None:
        matrix = torch.zeros(len(weight[part]), q, q, dtype=torch.float64, device=weight.device)
        matrix[:, rows, columns] = weight[part, : len(rows)].double()
        matrix[:, columns, rows] = matrix[:, rows, columns]
        prior = precision[shell[part]]
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal.copy_(torch.maximum(diagonal, floor[shell[part]]) * (1.0 + kernels.RIDGE) + prior)
        present = components[part, :, :q].double()
        rest = right[part, :, :q].double() - prior[:, None] * present
        factor = torch.linalg.cholesky_ex(matrix + 1e-30 * torch.eye(q, device=weight.device))[0]
        out[part, :, :q] = (present + torch.cholesky_solve(rest.mT, factor).mT).float()

    in_blocks(step, len(weight), "equations of voxels", FLOATS_PER_STEP // (8 * q * q))
    return out
