"""How well each image agrees with the model: a pass over all images, kept in the result directory.

Each image is held against the model's volume at the nearest of some places that are spread as the latents are, seen
from its own direction, with its own CTF. Particles that are none, or lie elsewhere, agree with nothing. Where the model
is gone, they are held against the consensus; the file and the names of the scores say which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
#: What images are held against: the model, or the consensus where the model is gone.
MODEL, CONSENSUS = REFERENCES = "model", "consensus"
#: Places of the latent space at which volumes are made, and images that are looked at together.
PLACES, BATCH = 32, 256
LABELS = {
    "agreement": "correlation of image and {reference}",
    "scale": "scale of the {reference} in the image",
    "residual": "power of what the {reference} leaves, per measured noise",
    "sd": "standard deviation of the image's background",
    "slope": "slope of the background (standard deviations)",
    "peak": "farthest pixel (standard deviations)",
}


@dataclass(frozen=True)
class ImageScores:
    """Scores of the shown particles.

    Attributes
    ----------
    values : mapping
        Name, as in ``LABELS``, to (n,) float32. ``residual`` is 1 for an image of the reference and noise as it was
        measured; the last three are facts of the images alone, and there where preprocessing has kept them.
    reference : str
        What the images were held against, one of ``REFERENCES``.
    """

    values: Mapping[str, NDArray[np.float32]]
    reference: str = MODEL


def score_images(maker: MapMaker) -> ImageScores:
    """Hold all shown images against the model, or against the consensus where the model is gone.

    Raises
    ------
    InputError
        When the images are gone.
    """
    opened = maker.opened
    with opened.lock:
        images = maker.images
        reference = MODEL if maker.has_model else CONSENSUS
        places = spread_places(opened.z, PLACES if reference == MODEL else 1, opened.seed)
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
        return ImageScores(scores | _statistics(images.statistics, opened.rows), reference)


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


def keep_scores(opened: OpenedResult, scores: ImageScores) -> Path:
    """Keep the scores in the result directory, atomically."""
    path = opened.home / FILE_NAME
    uid, reference = opened.result.particles.uid[opened.rows], np.array(scores.reference)
    write_arrays(path, {"row": opened.rows, "uid": uid, "reference": reference, **scores.values})
    return path


def kept_scores(opened: OpenedResult) -> ImageScores:
    """Scores of the shown particles that were kept; none where there are none, or of other particles.

    Raises
    ------
    InputError
        When the file is damaged.
    """
    path = opened.home / FILE_NAME
    if not path.exists():
        return ImageScores({})
    with readable(path, "delete it, and score the images again"):
        arrays = load_arrays(path, "row", "uid", optional=("reference", *LABELS))
        # Files of versions that knew the model only do not say it.
        reference = str(arrays.get("reference", MODEL))
        if reference not in REFERENCES:
            raise ValueError(f"its images are held against {reference[:40]!r}")
        values = {name: np.asarray(arrays[name], np.float32) for name in LABELS if name in arrays}
    if not np.array_equal(arrays["uid"], opened.result.particles.uid[opened.rows]):
        return ImageScores({})
    return ImageScores(values, reference)


def add_scores(opened: OpenedResult, scores: ImageScores) -> None:
    """List the scores as columns, which say what the images were held against."""
    group = f"agreement with the {scores.reference}"
    for name, values in scores.values.items():
        if values.shape != (opened.n,):
            raise InputError(f"{opened.home / FILE_NAME} is damaged: delete it, and score the images again.")
        label = LABELS[name].format(reference=scores.reference)
        opened.columns.add(Column(f"image_{name}", label, group, lambda values=values: values))  # type: ignore[misc]
