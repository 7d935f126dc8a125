"""The decoder as the search for poses sees it: volumes on a Fourier grid, or slices for each image's own latent.

A search holds every image against thousands of slices, while a decoder is slow and a grid is fast to interpolate. Where
images share a volume, it is rendered once: at the integer frequencies of the band, as a map, which is then transformed
with oversampling for slicing (Zhong 2022, 5.3.2, interpolates in-plane rotations only; here all of the exhaustive
step). A map in a box of its own, just large enough for the band, has the same extent as the box of the images and is
quick to transform.

With a latent for each image there are two ways. Images can share the volumes of a few latents, each with the volume
nearest to its own: as fast as one volume for all. Or every image has its own: :class:`DecoderModel`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Complex64, Float, Int64, Integer, Real
from torch import Tensor

from cryodrgn_ext.engines.neural.heterogeneity import render_maps
from cryodrgn_ext.engines.neural.vae import VaeModel
from cryodrgn_ext.fourier.slices import FourierGrid, FourierVolume
from cryodrgn_ext.pose.model import SliceModel, points_on

MARGIN = 2  # shells beyond the band that interpolation at its rim needs
OVERSAMPLING = 2
VALUES_AT_ONCE = 1 << 15
KMEANS_STEPS = 20


def render(model: VaeModel, z: Tensor, radius: float) -> Iterator[tuple[FourierVolume, Tensor]]:
    """Yield the decoder's volume at each latent, ready to be sliced up to ``radius``, and as a map (D', D', D').

    Parameters
    ----------
    model : VaeModel
    z : Tensor
        (P, q) latents; (1, 0) of a homogeneous model.
    radius : float
        Largest |k| that is needed, in cycles per box.
    """
    device = model.envelope.device
    largest = min(math.ceil(radius) + MARGIN, len(model.envelope) - 1)
    grid = FourierGrid(2 * (largest + 1), largest, 1)
    for row in z.to(device)[:, None]:
        for volume in render_maps(grid, 1, partial(model.spectrum, z=row), device):
            rendered = volume.to(device)
            yield FourierVolume.from_map(rendered, OVERSAMPLING, largest), rendered


@dataclass(frozen=True)
class DecoderModel:
    """Every image with the volume of its own latent; a :class:`cryodrgn_ext.pose.model.SliceModel`.

    Slices on planes that images share are interpolated in a volume that is rendered for each image, those on planes
    of its own are evaluated by the decoder coefficient by coefficient.

    Attributes
    ----------
    model : VaeModel
    z : Tensor
        (N, q) latents of the images that will be scored, in their order.
    """

    model: VaeModel
    z: Float[Tensor, "N q"]

    @property
    def per_image(self) -> bool:
        """See :class:`cryodrgn_ext.pose.model.SliceModel`."""
        return True

    def shared(self, planes: Float[Tensor, "G 2 3"], kxy: Real[Tensor, "M 2"]) -> DecoderSlices:
        """Slices on planes (G, 2, 3) at frequencies (M, 2), made when the images are known."""
        return DecoderSlices(self, points_on(planes, kxy))

    def own(
        self, rows: Integer[Tensor, " B"], planes: Float[Tensor, "B K 2 3"], kxy: Real[Tensor, "M 2"]
    ) -> Complex64[Tensor, "B K M"]:
        """Slices (B, K, M) complex64 of images ``rows`` on planes (B, K, 2, 3) of their own."""
        z = self.z[rows.to(self.z.device)].to(planes.device)
        n_images, n_planes = planes.shape[:2]
        out = torch.empty(n_images * n_planes, len(kxy), dtype=torch.complex64, device=planes.device)
        flat = planes.reshape(-1, 2, 3)
        each = max(1, VALUES_AT_ONCE // len(kxy))
        for start in range(0, len(flat), each):
            part = slice(start, start + each)
            image = torch.arange(start, min(start + each, len(flat)), device=planes.device) // n_planes
            out[part] = self.model.values(points_on(flat[part], kxy), z[image][:, None])
        return out.view(n_images, n_planes, len(kxy))


@dataclass(frozen=True)
class DecoderSlices:
    """Slices of a :class:`DecoderModel` at points (G, M, 3) that images share."""

    decoder: DecoderModel
    points: Float[Tensor, "G M 3"]

    def of(self, rows: Integer[Tensor, " B"]) -> Complex64[Tensor, "B G M"]:
        """Slices (B, G, M) complex64 of images ``rows``, each of its own volume."""
        z = self.decoder.z[rows.to(self.decoder.z.device)]
        out = torch.empty((len(rows), *self.points.shape[:2]), dtype=torch.complex64, device=self.points.device)
        radius = float(self.points.norm(dim=-1).max())
        for target, (volume, _) in zip(out, render(self.decoder.model, z, radius), strict=True):
            target.copy_(volume.slice(self.points))
        return out


@dataclass(frozen=True)
class Searched:
    """Volumes that some images are compared with.

    Attributes
    ----------
    rows : Tensor
        (B,) int64 into the images.
    slices : SliceModel or FourierVolume
    volume : Tensor or None
        (D', D', D') map that the images share, in a box of their extent; None when each has its own.
    """

    rows: Int64[Tensor, " B"]
    slices: SliceModel | FourierVolume
    volume: Float[Tensor, "D D D"] | None


def search_models(
    model: VaeModel, z: Float[Tensor, "N q"], radius: float, volumes: int, seed: int
) -> Iterator[Searched]:
    """Models that groups of images are compared with.

    Parameters
    ----------
    model : VaeModel
    z : Tensor
        (N, q) latents of the images.
    radius : float
        Largest |k| of the search, in cycles per box.
    volumes : int
        How many volumes the images share, at k-means centres of their latents; 0: every image has its own.
    seed : int

    Yields
    ------
    Searched
        One for each group of images; together they have all images once.
    """
    everyone = torch.arange(len(z))
    if z.shape[1] == 0:
        yield Searched(everyone, *next(render(model, torch.zeros(1, 0), radius)))
        return
    if volumes == 0:
        yield Searched(everyone, DecoderModel(model, z), None)
        return
    centres, label = nearest_latents(z, volumes, seed)
    for number, (slices, volume) in enumerate(render(model, centres, radius)):
        yield Searched((label == number).nonzero()[:, 0], slices, volume)


def nearest_latents(z: Float[Tensor, "N q"], count: int, seed: int) -> tuple[Float[Tensor, "C q"], Int64[Tensor, " N"]]:
    """At most ``count`` centres (C, q) of latents (N, q) by k-means, none empty, and the nearest of each (N,)."""
    latents = z.detach().cpu().double()
    order = torch.randperm(len(latents), generator=torch.Generator().manual_seed(seed))
    centres = latents[order[:1]]
    for _ in range(min(count, len(latents)) - 1):  # each new one is what lies farthest from all: no two are alike
        distance = torch.cdist(latents, centres).min(1).values
        if float(distance.max()) == 0.0:
            break
        centres = torch.cat([centres, latents[distance.argmax()][None]])
    label = torch.cdist(latents, centres).argmin(1)
    for _ in range(KMEANS_STEPS):
        members = torch.bincount(label, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, label, latents)
        centres = torch.where(members[:, None] > 0, sums / members.clamp(min=1)[:, None], centres)
        label = torch.cdist(latents, centres).argmin(1)
    used, label = label.unique(return_inverse=True)
    return centres[used].float(), label
