"""Images that a user should know of: repaired, useless, or unlike others of their micrograph and optics group."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.images.image_statistics import ImageStatistics, Remark
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.metadata.own_tables import own_star_text
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.metadata.row_matching import positions_of
from cryodrgn_ext.progress import Monitor

#: Images of a micrograph that its images are compared with; of smaller ones, those of the optics group are.
FEWEST_OF_A_MICROGRAPH = 20
#: Robust standard deviations beyond which an image is unlike the others,
UNLIKE_SD = 8.0
#: and at least so far: a factor of the spread, standard deviations of the level and of the gradient over half a box.
LEAST_FACTOR, LEAST_LEVEL, LEAST_SLOPE = 1.5, 1.0, 3.0
#: Bright or dark objects reach so many times the threshold of outlier pixels.
LEAST_OBJECT = 1.5
MAD_TO_SD = 1.4826


def with_statistics(images: ParticleImages, statistics: ImageStatistics) -> ParticleImages:
    """Images with what was found of them; those that cannot be used get a CTF of 0, so that they weigh nothing."""
    parameters = images.ctf_parameters
    bad = statistics.unusable
    if parameters is not None and bad.any():
        usable = torch.from_numpy(~bad).to(parameters.scale)
        parameters = replace(parameters, scale=parameters.scale * usable)
    return replace(images, ctf_parameters=parameters, statistics=statistics)


def say_remarks(images: ParticleImages, monitor: Monitor) -> None:
    """Warn of what was found, each kind of thing with an image as an example."""
    particles, statistics = images.particles, images.statistics
    if particles is None or statistics is None:
        return
    useless, repaired = np.flatnonzero(statistics.unusable), np.flatnonzero(statistics.repaired)
    if len(useless):
        reasons = Counter(statistics.reason(row) for row in useless.tolist())
        why = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
        monitor.warn(
            f"Warning: {len(useless)} of {images.n} images cannot be used ({why}), the first of them "
            f"{particles.describe_row(int(useless[0]))}: nothing is learnt from them, and they belong to no state."
        )
    if len(repaired):
        monitor.warn(
            f"Warning: outlier pixels (hot or dead pixels, dust) were replaced by their surroundings in "
            f"{len(repaired)} of {images.n} images, such as {particles.describe_row(int(repaired[0]))}."
        )
    unlike = [remark for remark in images.remarks if remark.words]
    if unlike:
        rows = np.unique(np.concatenate([remark.rows for remark in unlike]))
        why = ", ".join(f"{remark.words}: {len(remark.rows)}" for remark in unlike)
        monitor.warn(
            f"Warning: {len(rows)} of {images.n} images are unlike others of their micrograph or optics group ({why}), "
            f"such as {particles.describe_row(int(rows[0]))}: look at them, and take them out if they show no particle."
        )


def find_remarks(statistics: ImageStatistics, particles: ParticleSet, outlier_sd: NDArray[np.floating]) -> list[Remark]:
    """Find what is remarkable about images.

    Parameters
    ----------
    statistics : ImageStatistics
    particles : ParticleSet
        Of N images.
    outlier_sd : ndarray
        (N,) threshold of outlier pixels in the optics group of each.
    """
    found = []
    status = statistics.column("status").astype(np.int64)
    for value in np.unique(status[statistics.unusable]).tolist():
        name = statistics.reason(int(np.argmax(status == value))).split(":")[0].replace(" ", "_")
        found.append(Remark(name, "", np.flatnonzero(status == value)))
    found.append(Remark("outlier_pixels_replaced", "", np.flatnonzero(statistics.repaired)))
    usable = ~statistics.unusable
    sd = np.maximum(statistics.column("sd").astype(np.float64), 1e-30)
    group = _compared_with(particles)
    tests = (
        ("background_spread", "spread of the background", _deviation(np.log(sd), group, usable), np.log(LEAST_FACTOR)),
        ("background_level", "level of the background",
         _deviation(statistics.column("mean") / _middle(sd, group, usable), group, usable), LEAST_LEVEL),
    )  # fmt: skip
    for name, words, deviation, least in tests:
        found.append(Remark(name, words, np.flatnonzero(usable & _is_unlike(np.abs(deviation), usable, least))))
    slope = statistics.column("slope").astype(np.float64)
    found.append(Remark("gradient", "gradient of the background",
                        np.flatnonzero(usable & _is_unlike(slope, usable, LEAST_SLOPE))))  # fmt: skip
    bright = usable & (statistics.column("peak") > LEAST_OBJECT * outlier_sd)
    found.append(Remark("strong_object", "an object far stronger than particles", np.flatnonzero(bright)))
    return [remark for remark in found if len(remark.rows)]


def write_remarks(path: Path, images: ParticleImages) -> None:
    """Write the remarks of images as a STAR table, one row per image, atomically; remove it where there are none."""
    if images.particles is None or images.statistics is None or not images.remarks:
        path.unlink(missing_ok=True)
        return
    names: dict[int, list[str]] = {}
    for remark in images.remarks:
        for row in remark.rows.tolist():
            names.setdefault(row, []).append(remark.name)
    rows = np.array(sorted(names))
    columns = {
        "rlnImageName": images.particles.image_name[rows],
        "cdxRow": rows + 1,
        "cdxRemark": np.array(["+".join(names[row]) for row in rows.tolist()]),
        "cdxRepairedPixels": images.statistics.column("repaired")[rows].astype(np.int64),
        "cdxBackgroundMean": images.statistics.column("mean")[rows],
        "cdxBackgroundSd": images.statistics.column("sd")[rows],
    }
    atomic_write_text(path, own_star_text({"images": columns}))


def _compared_with(particles: ParticleSet) -> NDArray[np.int64]:
    """(N,) group whose images an image is compared with: its micrograph, or its optics group where that has few."""
    group = particles.optics_index.astype(np.int64)
    positions = positions_of(particles)
    if positions is None:
        return group
    micrograph = positions.micrograph.astype(np.int64)
    size = np.bincount(micrograph, minlength=len(positions.micrographs))
    return np.where(size[micrograph] >= FEWEST_OF_A_MICROGRAPH, len(particles.optics) + micrograph, group)


def _middle(values: NDArray[np.floating], group: NDArray[np.int64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,) median of the usable values of each one's group (of all, where a group has none)."""
    number = np.unique(group, return_inverse=True)[1].reshape(-1)
    rows = np.flatnonzero(usable)
    if not len(rows):
        return np.zeros(len(values))
    order = rows[np.lexsort((values[rows], number[rows]))]
    size = np.bincount(number[rows], minlength=int(number.max()) + 1)
    last = np.cumsum(size)
    first = last - size
    ranked = values[order].astype(np.float64)
    low, high = (np.clip(place // 2, 0, len(order) - 1) for place in (first + last - 1, first + last))
    middle = np.where(size > 0, 0.5 * (ranked[low] + ranked[high]), np.median(ranked))
    return np.asarray(middle[number], np.float64)


def _deviation(
    values: NDArray[np.floating], group: NDArray[np.int64], usable: NDArray[np.bool_]
) -> NDArray[np.float64]:
    return values.astype(np.float64) - _middle(values, group, usable)


def _is_unlike(values: NDArray[np.float64], usable: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    """(N,) whether non-negative values are far beyond the usual one, and beyond ``least``."""
    if not usable.any():
        return np.zeros(len(values), np.bool_)
    limit = max(least, UNLIKE_SD * MAD_TO_SD * float(np.median(values[usable])))
    return values > limit
