"""How well each image agrees with the model: a pass over all images, kept in the result directory.

Each image is held against the model's volume at the nearest of some places that are spread as the latents are, seen
from its own direction, with its own CTF. Particles that are none, or lie elsewhere, agree with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cryodrgn_ext.analysis.latents import spread_places
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.columns import Column
from cryodrgn_ext.explorer.maps import MapMaker
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.image_statistics import ImageStatistics
from cryodrgn_ext.plain_files import load_arrays, readable, write_arrays

FILE_NAME = "image_scores.npz"
GROUP = "agreement with the model"
#: Places of the latent space at which volumes are made, and images that are looked at together.
PLACES, BATCH = 32, 256
LABELS = {
    "agreement": "correlation of image and model",
    "scale": "scale of the model in the image",
    "residual": "power of what the model leaves, per measured noise",
    "sd": "standard deviation of the image's background",
    "slope": "slope of the background (standard deviations)",
    "peak": "farthest pixel (standard deviations)",
}
Scores = Mapping[str, NDArray[np.float32]]


def score_images(maker: MapMaker) -> Scores:
    """Hold all shown images against the model, or against the consensus where the model is gone.

    Returns
    -------
    mapping
        Name, as in ``LABELS``, to (n,) float32. ``residual`` is 1 for an image of the model and noise as it was
        measured; the last three are facts of the images alone, and there where preprocessing has kept them.

    Raises
    ------
    InputError
        When the images are gone.
    """
    opened = maker.opened
    with opened.lock:
        images = maker.images
        places = spread_places(opened.z, PLACES if maker.has_model else 1, opened.seed)
        nearest = KDTree(places).query(opened.z)[1]
        found = np.zeros((3, opened.n), np.float64)
        for number, volume in enumerate(maker.volumes(places)):
            members = np.flatnonzero(nearest == number)
            model = FourierVolume.from_map(torch.from_numpy(np.asarray(volume, np.float32)), radius=images.plane.radius)
            for part in np.array_split(members, -(-len(members) // BATCH)) if len(members) else ():
                batch = images.batch(torch.from_numpy(opened.rows[part]), device="cpu")
                expected = batch.ctf * model.slice(batch.points)
                found[:, part] = _compare(batch.coefficients, expected)
        # The window around the particles has taken a part of the noise.
        found[2] /= images.window_power[images.optics_index[torch.from_numpy(opened.rows)]].cpu().numpy()
        scores = dict(zip(("agreement", "scale", "residual"), found.astype(np.float32), strict=True))
        return scores | _statistics(images.statistics, opened.rows)


def _compare(image: torch.Tensor, expected: torch.Tensor) -> NDArray[np.float64]:
    """(3, B): correlation, least-squares scale, and power per coefficient of what is left, of coefficients (B, M)."""
    cross = (image * expected.conj()).real.sum(dim=1).double()
    power, own = (one.abs().square().sum(dim=1).double() for one in (image, expected))
    own = own.clamp_min(torch.finfo(torch.float32).tiny)
    scale = cross / own
    agreement = cross / (power * own).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    count = (expected != 0).sum(dim=1).clamp_min(1)
    left = (power - scale.square() * own) / count
    return torch.stack([agreement, scale, left]).numpy()


def _statistics(known: ImageStatistics | None, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    if known is None:
        return {}
    return {name: np.asarray(known.column(name)[rows], np.float32) for name in ("sd", "slope", "peak")}


def keep_scores(opened: OpenedResult, scores: Scores) -> Path:
    """Keep the scores in the result directory, atomically."""
    path = opened.home / FILE_NAME
    write_arrays(path, {"row": opened.rows, "uid": opened.result.particles.uid[opened.rows], **scores})
    return path


def kept_scores(opened: OpenedResult) -> Scores:
    """Scores of the shown particles that were kept; none where there are none, or of other particles.

    Raises
    ------
    InputError
        When the file is damaged.
    """
    path = opened.home / FILE_NAME
    if not path.exists():
        return {}
    with readable(path, "delete it, and score the images again"), np.load(path, allow_pickle=False) as table:
        names = tuple(name for name in LABELS if name in table)
    arrays = load_arrays(path, "row", "uid", *names)
    if not np.array_equal(arrays["uid"], opened.result.particles.uid[opened.rows]):
        return {}
    return {name: np.asarray(arrays[name], np.float32) for name in names}


def add_scores(opened: OpenedResult, scores: Scores) -> None:
    """List the scores as columns."""
    for name, values in scores.items():
        if values.shape != (opened.n,):
            raise InputError(f"{opened.home / FILE_NAME} is damaged: delete it, and score the images again.")
        opened.columns.add(Column(f"image_{name}", LABELS[name], GROUP, lambda values=values: values))  # type: ignore[misc]
