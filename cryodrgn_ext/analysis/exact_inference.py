"""Which of several known maps each image shows, by exact inference: the most that latents of the same images can tell.

With the true maps, the given pose and CTF and the noise of whitened images, the posterior over the states of single
images is a sum of squares: for image X and the expected image P of a state,

    log p(X | state, c) = 2 c Re<P, X> - c^2 |P|^2

but for a constant (whitened noise has unit power where the particle is). The scale c of an image is not known, but how
much scales differ is: it is integrated out with a Gaussian prior around 1 of the spread that the images themselves show
at their true states. No method that sees an image at its given pose can tell more about its state on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.particle_scale import relative_spread
from cryodrgn_ext.progress import Monitor

FloatArray = NDArray[np.float64]
IMAGES_PER_BATCH = 256
#: Pairs of an image and a state beyond which fewer images are looked at: bounds the time whatever the set.
MOST_PAIRS = 100_000
FEWEST_IMAGES = 200


@dataclass(frozen=True)
class _Matches:
    """Of n images with S states, in the units of the noise: Re<P, X> and |P|^2 (n, S)."""

    products: FloatArray
    powers: FloatArray


def state_posterior(
    images: ParticleImages, rows: NDArray[np.int64], state: NDArray[np.integer], maps: NDArray[np.float32],
    monitor: Monitor,
) -> FloatArray:  # fmt: skip
    """Posterior probability of each state for some images.

    Parameters
    ----------
    images : ParticleImages
        At the poses that are to be taken for granted.
    rows : ndarray
        (n,) which images.
    state : ndarray
        (N,) true state of every image, 0 to S - 1: for the shares of the states, which are the prior, for the unit of
        the maps, and for how much images differ in scale.
    maps : ndarray
        (S, D, D, D) true maps in any unit, the same for all.
    monitor : Monitor

    Returns
    -------
    ndarray
        (n, S), rows of which sum to 1.
    """
    found = _match(images, rows, maps, monitor)
    own = np.arange(len(rows)), state[rows]
    unit = max(float(found.products[own].sum() / max(found.powers[own].sum(), 1e-300)), 0.0)
    products, powers = unit * found.products, unit**2 * found.powers
    scale = products[own] / np.maximum(powers[own], 1e-300)
    error = np.sqrt(0.5 / np.maximum(powers[own], 1e-300))
    spread = relative_spread(scale, error, np.zeros(len(scale))).variance
    share = np.bincount(state, minlength=len(maps)) / len(state)
    logits = log_evidence(products, powers, spread) + np.log(np.maximum(share, 1e-300))
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def images_for_inference(state: NDArray[np.integer], n_states: int, seed: int = 0) -> NDArray[np.int64]:
    """(n,) images, drawn at random, for which the posterior over so many states takes a bounded time."""
    most = max(FEWEST_IMAGES, MOST_PAIRS // max(n_states, 1))
    rng = np.random.default_rng([seed, 12])
    return np.sort(rng.permutation(len(state))[:most]).astype(np.int64)


def log_evidence(products: FloatArray, powers: FloatArray, variance: float) -> FloatArray:
    """Log of the integral of exp(2 c products - c^2 powers) over c, Gaussian about 1, but for a constant.

    Parameters
    ----------
    products, powers : ndarray
        (...) Re<P, X> and |P|^2 in units of the noise of a complex coefficient.
    variance : float
        Of the scale c; at most 0 where it is 1 in all images.
    """
    if variance <= 0:
        return 2 * products - powers
    precision = 2 * powers + 1 / variance
    return -0.5 * np.log(precision * variance) + 0.5 * (2 * products + 1 / variance) ** 2 / precision - 0.5 / variance


def _match(images: ParticleImages, rows: NDArray[np.int64], maps: NDArray[np.float32], monitor: Monitor) -> _Matches:
    volumes = [FourierVolume.from_map(torch.from_numpy(one), radius=images.plane.radius) for one in maps]
    shape = (len(rows), len(maps))
    products, powers = np.empty(shape), np.empty(shape)
    batches = range(0, len(rows), IMAGES_PER_BATCH)
    for start in monitor.track(batches, "Images with true maps", len(rows), IMAGES_PER_BATCH):
        part = slice(start, start + IMAGES_PER_BATCH)
        batch = images.batch(torch.from_numpy(rows[part]), device="cpu")
        for number, volume in enumerate(volumes):
            expected = batch.ctf * volume.slice(batch.points)
            products[part, number] = _sum(expected.conj() * batch.coefficients)
            powers[part, number] = _sum(expected.conj() * expected)
    return _Matches(products, powers)


def _sum(values: Tensor) -> FloatArray:
    return np.asarray(values.real.double().sum(1).numpy())
