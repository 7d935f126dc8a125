"""Pictures of single particles: the stack's own image, low-passed, freed of noise and CTF, and the model's view.

The first is also there as the job works on it (downsampled, its background levelled), for where the stack is gone.
The second is low-passed where noise takes over from the signal. The third is the Wiener filter for one image: with the
signal that the model expects in each shell and the noise that was measured, both known, it has no setting. Where the
model's view shows what the image does not, the particle is no particle, or the model is wrong.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.maps import MapMaker
from cryodrgn_ext.explorer.original_images import OriginalImage, grey_values, original_images
from cryodrgn_ext.fourier.slices import FourierVolume

MOST = 60
KINDS = ("image as the job works on it", "low-passed", "without CTF and noise")
#: The fourth: of the model at the particle's own latent, or of the map of all where the model is gone.
VIEWS = "model's view", "consensus's view"


@dataclass(frozen=True)
class Gallery:
    """Pictures of n particles.

    Attributes
    ----------
    pictures : ndarray
        (n, 4, d, d) float32: see ``KINDS`` and ``VIEWS``.
    agreement : ndarray
        (n,) correlation of each image with what the model expects of it, over all whitened coefficients.
    originals : tuple of OriginalImage
        The n images as they are in the user's stacks, at full size.
    view : str
        One of ``VIEWS``.
    """

    pictures: NDArray[np.float32]
    agreement: NDArray[np.float64]
    originals: tuple[OriginalImage, ...]
    view: str = VIEWS[0]

    def plain(self) -> dict[str, Any]:
        """For the page: grey values of 8 bits, each picture over its own range."""
        data = base64.b64encode(grey_values(self.pictures).tobytes()).decode("ascii")
        agreement = [round(float(value), 4) for value in self.agreement]
        return {"kinds": (*KINDS, self.view), "box": self.pictures.shape[-1], "agreement": agreement, "data": data,
                "originals": [one.plain() for one in self.originals]}  # fmt: skip


def gallery(maker: MapMaker, positions: Sequence[int]) -> Gallery:
    """Draw single particles, each with the model at its own latent.

    Parameters
    ----------
    maker : MapMaker
        Of the opened result.
    positions : sequence of int
        Among the particles that are shown.

    Raises
    ------
    InputError
        When there are no such particles, too many are asked for, or the images are gone.
    """
    opened = maker.opened
    places = np.asarray(positions, np.int64)
    if places.ndim != 1 or not 1 <= len(places) <= MOST or places.min() < 0 or places.max() >= opened.n:
        raise InputError(f"1 to {MOST} of the {opened.n} particles can be drawn at once.")
    with opened.lock:
        images = maker.images
        batch = images.batch(torch.from_numpy(opened.rows[places]), device="cpu")
        maps = (torch.from_numpy(np.asarray(volume, np.float32)) for volume in maker.volumes(opened.z[places]))
        slices = (FourierVolume.from_map(one, radius=images.plane.radius).slice for one in maps)
        views = torch.stack([of(points) for of, points in zip(slices, batch.points, strict=True)])
        expected = batch.ctf * views
        precision = 1 / _power_of_shells(views, images.plane.shell[: views.shape[1]])
        restored = batch.coefficients * batch.ctf / (batch.ctf.square() + precision)
        smooth = batch.coefficients * _share_of_signal(batch.ctf, precision, images.plane.shell[: views.shape[1]])
        shown = (batch.coefficients, smooth, restored, views)
        pictures = torch.stack([images.plane.to_images(one) for one in shown], dim=1)
        view = VIEWS[0 if maker.has_model else 1]
    originals = tuple(original_images(opened.result.particles, opened.rows[places]))
    return Gallery(pictures.numpy(), _correlation(batch.coefficients, expected), originals, view)


def _power_of_shells(views: Tensor, shell: Tensor) -> Tensor:
    """(M,) Mean power of views (n, M) in the shell of each coefficient."""
    power = views.abs().square().mean(dim=0)
    count = torch.bincount(shell)
    mean = torch.bincount(shell, power) / count.clamp_min(1)
    return mean[shell].clamp_min(torch.finfo(torch.float32).tiny)


def _share_of_signal(ctf: Tensor, precision: Tensor, shell: Tensor) -> Tensor:
    """(M,) share of the signal in the power of the images, a mean over each shell, where it has no zeros of the CTF."""
    signal = ctf.square().mean(dim=0) / precision
    count = torch.bincount(shell).clamp_min(1)
    mean = torch.bincount(shell, signal) / count
    return (mean / (mean + 1))[shell]


def _correlation(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """(n,) real correlation of coefficients (n, M)."""
    product = (first.conj() * second).real.sum(dim=1)
    size = first.abs().square().sum(dim=1) * second.abs().square().sum(dim=1)
    return (product / size.sqrt().clamp_min(torch.finfo(torch.float32).tiny)).double().numpy()
