"""Populations of states by maximum likelihood: hard counts distort them where noise decides which state is nearest.

The maps of K states, made of images that were dealt to them with errors, are mixtures of the true ones, but span the
same space of differences from the consensus. Within that space, made from the half that an image is not of, the image
says where it is with an uncertainty of its own, that of its view, CTF and noise: with patterns p_k = c D_k, outside of
the consensus' own pattern (so that contrast does not count), and what the consensus leaves of the image, r,

    log likelihood of the place u = 2 b.u - u.A u,    b_k = Re <p_k, r>,    A_kl = Re <p_k, p_l>.

Patterns are as strong as the image shows the consensus.

Places and weights of K points are found by expectation-maximisation over all images (a mixture deconvolved from the
noise; Bovy, Hogg & Roweis 2011, without the widths). Images that tell more count for more, and a state that has other
views or more noise would be under- or overrated by it: weights are those of images that tell about as much (groups by
the size of A), and the population is their mean. A map's own noise makes its pattern larger than the signal in it,
by which the places become smaller: the fitted places calibrate themselves. Intervals are of the observed information
(scores of weights and places together), so that states that images cannot tell apart get wide ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit, logsumexp
from torch import Tensor

from cryodrgn_ext.fourier.resizing import crop_map
from cryodrgn_ext.fourier.shells import apply_radial_weights, shell_products
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages

FloatArray = NDArray[np.float64]
IMAGES_PER_BATCH = 256
#: Numbers that are held of all images; beyond, a random part of the images is looked at.
MOST_NUMBERS = 40_000_000
ITERATIONS = 1000
CONVERGED = 1e-6  # largest change of a weight
SMALLEST_AXIS = 1e-3  # of the largest: differences that are so small are no axis of the space
FEWEST_PER_STATE = 20  # of a half
GROUPS = 16
LEAST_SCALE = 0.05  # of the mean; images that show nothing tell nothing
IMAGES_PER_STEP = 4096
Z95 = 1.959964


@dataclass(frozen=True)
class StateWeights:
    """Populations of states.

    Attributes
    ----------
    nearest : ndarray
        (K,) shares of the particles that were dealt to each state.
    weight : ndarray
        (K,) maximum-likelihood shares; they sum to 1.
    low, high : ndarray
        (K,) 95 % intervals.
    images : int
        How many were looked at.
    """

    nearest: FloatArray
    weight: FloatArray
    low: FloatArray
    high: FloatArray
    images: int


def filtered_differences(
    states: Iterable[Sequence[NDArray[np.float32]]],
    consensus: Sequence[NDArray[np.float32]],
    mask: NDArray[np.float32],
    radius: int,
) -> list[NDArray[np.float32]]:
    """Differences of states to the consensus of each half, in a small box, with shells weighted by what halves share.

    Parameters
    ----------
    states : iterable
        K pairs of half-maps (D, D, D), unfiltered; one after the other.
    consensus : sequence of ndarray
        Half-maps of all.
    mask : ndarray
        (D, D, D) where to look.
    radius : int
        Largest |k|, cycles per box.

    Returns
    -------
    list of ndarray
        Of half 1 and half 2: (K, d, d, d).
    """
    masked: tuple[list[Tensor], list[Tensor]] = ([], [])
    for pair in states:
        for half, found in enumerate(masked):
            found.append(torch.from_numpy(in_small_box((pair[half] - consensus[half]) * mask, radius)))
    shared, first, second = (
        torch.stack([shell_products(a, b) for a, b in zip(masked[i], masked[j], strict=True)]).sum(dim=0)
        for i, j in ((0, 1), (0, 0), (1, 1))
    )
    agreement = (shared / (first * second).sqrt().clamp_min(1e-300)).clamp(0, 1)
    return [torch.stack([apply_radial_weights(one, agreement) for one in half]).numpy() for half in masked]


def in_small_box(volume: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """(d, d, d) map whose Fourier coefficients up to ``radius`` are those of a map (D, D, D)."""
    size, small = len(volume), min(len(volume), 2 * radius + 2)
    cropped: NDArray[np.float32] = crop_map(torch.from_numpy(volume), small).numpy()
    return cropped * np.float32((size / small) ** 3)


@dataclass(frozen=True)
class PlacedImages:
    """What n images of one half say of their places in the space of differences.

    Attributes
    ----------
    b : ndarray
        (n, q) see the module.
    a : ndarray
        (n, q, q).
    label : ndarray
        (n,) state that each was dealt to.
    """

    b: FloatArray
    a: FloatArray
    label: NDArray[np.int64]


def state_weights(
    images: ParticleImages,
    label: NDArray[np.integer],
    differences: Sequence[NDArray[np.float32]],
    consensus: Sequence[NDArray[np.float32]],
    radius: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> StateWeights | None:
    """Find the populations of states.

    Parameters
    ----------
    images : ParticleImages
    label : ndarray
        (N,) state of each particle, 0 to K - 1; negative for particles without one.
    differences : sequence of ndarray
        Of half 1 and half 2: (K, d, d, d) masked difference maps of the states to the consensus of the half.
    consensus : sequence of ndarray
        Of half 1 and half 2: (d, d, d).
    radius : int
        Largest |k| that is looked at, cycles per box.
    seed : int
        Of the part of the images that is looked at, where it is not all.
    device : torch.device or str

    Returns
    -------
    StateWeights or None
        None where there are fewer than two states, too few images, or no differences.
    """
    n_states = len(differences[0])
    label = label.astype(np.int64)
    used = label >= 0
    nearest = np.bincount(label[used], minlength=n_states) / max(int(used.sum()), 1)
    half_set, rng = images.half_set.cpu().numpy(), np.random.default_rng([seed, 10])
    found = []
    for half in (1, 2):
        axes = _axes(differences[2 - half])
        rows = np.flatnonzero(used & (half_set == half))
        if len(axes) == 0 or len(rows) < FEWEST_PER_STATE * n_states:
            return None
        most = max(MOST_NUMBERS // (2 * len(axes) * (len(axes) + n_states)), 1000)
        if len(rows) > most:
            rows = np.sort(rng.choice(rows, most, replace=False)).astype(np.int64)
        placed = _place(images, rows, np.asarray(label[rows], np.int64), axes, consensus[2 - half], radius, device)
        found.append((len(rows), *fit_weights(placed, n_states)))
    size = np.array([one[0] for one in found], float)
    share = size / size.sum()
    weight = sum(part * one[1] for part, one in zip(share, found, strict=True))
    error = np.sqrt(sum((part * one[2]) ** 2 for part, one in zip(share, found, strict=True)))
    low, high = _interval(weight, error)
    return StateWeights(nearest, weight, low, high, int(size.sum()))


def _interval(weight: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    """95 % interval on the scale of log odds, so that it stays between 0 and 1."""
    w = np.clip(weight, 1e-6, 1 - 1e-6)
    step = np.minimum(Z95 * error / (w * (1 - w)), 50.0)
    return expit(logit(w) - step), expit(logit(w) + step)


def _axes(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    """(q, d, d, d) orthogonal maps that span K differences."""
    flat = differences.reshape(len(differences), -1).astype(np.float64)
    value, vector = np.linalg.eigh(flat @ flat.T)
    kept = value > SMALLEST_AXIS**2 * max(value[-1], 1e-300)
    kept[0] = False  # differences from their mean are one fewer than states
    return (vector[:, kept].T @ flat).reshape(-1, *differences.shape[1:]).astype(np.float32)


def _place(
    images: ParticleImages, rows: NDArray[np.int64], label: NDArray[np.int64], axes: NDArray[np.float32],
    consensus: NDArray[np.float32], radius: int, device: torch.device | str,
) -> PlacedImages:  # fmt: skip
    """Statistics of images by patterns of the other half."""
    count = min(images.plane.prefix(radius), images.source.n_coefficients)
    volumes = [FourierVolume.from_map(torch.from_numpy(one).to(device), radius=radius) for one in (consensus, *axes)]
    found: list[tuple[Tensor, ...]] = []
    for some in torch.from_numpy(rows).split(IMAGES_PER_BATCH):
        batch = images.batch(some, count, device)
        shown = torch.stack([batch.ctf * volume.slice(batch.points) for volume in volumes], dim=1)
        expected, patterns = shown[:, 0], shown[:, 1:]
        size = expected.abs().square().sum(1).clamp_min(torch.finfo(torch.float32).tiny)
        along = torch.einsum("bm,bkm->bk", expected.conj(), patterns).real / size[:, None]
        patterns = patterns - along[..., None] * expected[:, None]
        found.append((
            torch.einsum("bkm,bm->bk", patterns.conj(), batch.coefficients).real.double().cpu(),
            torch.einsum("bkm,blm->bkl", patterns.conj(), patterns).real.double().cpu(),
            ((expected.conj() * batch.coefficients).real.sum(1) / size).double().cpu(),
            (0.5 / size).double().cpu(),
        ))  # fmt: skip
    b, a, scale, variance = (torch.cat(column).numpy() for column in zip(*found, strict=True))
    scale = _without_noise(scale, variance)
    return PlacedImages(scale[:, None] * b, scale[:, None, None] ** 2 * a, label)


def _without_noise(scale: FloatArray, variance: FloatArray) -> FloatArray:
    """Scales (n,) drawn towards their mean as far as their spread is that of noise of these variances."""
    weight = 1 / np.maximum(variance, 1e-300)
    mean = float(np.average(scale, weights=weight))
    spread = max(float(np.average((scale - mean) ** 2, weights=weight)) - 1 / float(weight.mean()), 0.0)
    return np.asarray(np.clip(mean + spread / (spread + variance) * (scale - mean), LEAST_SCALE * abs(mean), None))


def fit_weights(placed: PlacedImages, n_states: int) -> tuple[FloatArray, FloatArray]:
    """Weights (K,) of points by expectation-maximisation from where hard assignment puts them, and their errors."""
    group = _by_information(placed, n_states)
    member = np.eye(n_states)[placed.label]
    weight, place = _maximise(placed, member, group)
    for _ in range(ITERATIONS):
        member = _expect(placed, weight[group], place)
        new, place = _maximise(placed, member, group)
        change, weight = float(np.abs(new - weight).max()), new
        if change < CONVERGED:
            break
    share = np.bincount(group) / len(group)
    return share @ weight, _errors(placed, weight, place, group)


def _by_information(placed: PlacedImages, n_states: int) -> NDArray[np.int64]:
    """(n,) group of each image, by how much it can tell."""
    information = np.trace(placed.a, axis1=1, axis2=2)
    n_groups = int(np.clip(len(information) // (FEWEST_PER_STATE * n_states), 1, GROUPS))
    edges = np.quantile(information, np.arange(1, n_groups) / n_groups)
    _, group = np.unique(np.searchsorted(edges, information, side="right"), return_inverse=True)
    return group.reshape(-1).astype(np.int64)


def _expect(placed: PlacedImages, weight: FloatArray, place: FloatArray) -> FloatArray:
    """(n, K) probability of each point, where weights (n, K) are those of each image's group."""
    fits = 2 * placed.b @ place.T - np.einsum("kq,nqp,kp->nk", place, placed.a, place, optimize=True)
    log = fits + np.log(np.maximum(weight, 1e-300))
    return np.asarray(np.exp(log - logsumexp(log, axis=1, keepdims=True)))


def _maximise(placed: PlacedImages, member: FloatArray, group: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """Weights (G, K) and places (K, q) of points that hold these shares of the images."""
    q = placed.b.shape[1]
    normal = (member.T @ placed.a.reshape(len(placed.a), q * q)).reshape(-1, q, q)
    ridge = (1e-9 * np.trace(normal, axis1=1, axis2=2) + 1e-300)[:, None, None] * np.eye(q)
    place = np.linalg.solve(normal + ridge, (member.T @ placed.b)[..., None])[..., 0]
    size = np.bincount(group)
    return np.stack([np.bincount(group, one) / size for one in member.T], axis=1), place


def _errors(placed: PlacedImages, weight: FloatArray, place: FloatArray, group: NDArray[np.int64]) -> FloatArray:
    """(K,) standard errors of the weights of all, places being free: by the sum of the squares of the scores."""
    (n_states, q), n_groups, n = place.shape, len(weight), len(group)
    free = n_groups * (n_states - 1)
    information = np.zeros((free + n_states * q, free + n_states * q))
    safe = np.maximum(weight, 1e-9)
    for start in range(0, n, IMAGES_PER_STEP):
        part = slice(start, start + IMAGES_PER_STEP)
        some, of = PlacedImages(placed.b[part], placed.a[part], placed.label[part]), group[part]
        member = _expect(some, weight[of], place)
        of_weight = np.zeros((len(of), n_groups, n_states - 1))
        of_weight[np.arange(len(of)), of] = member[:, :-1] / safe[of, :-1] - member[:, -1:] / safe[of, -1:]
        pull = 2 * (some.b[:, None] - np.einsum("nqp,kp->nkq", some.a, place, optimize=True))
        scores = np.concatenate([of_weight.reshape(len(of), -1), (member[..., None] * pull).reshape(len(of), -1)], 1)
        information += scores.T @ scores
    scale = np.sqrt(np.maximum(np.diagonal(information), 1e-300))
    inverse = np.linalg.pinv(information / np.outer(scale, scale) + 1e-9 * np.eye(len(scale)), hermitian=True)
    covariance = (inverse / np.outer(scale, scale))[:free, :free].reshape(n_groups, n_states - 1, n_groups, -1)
    share = np.bincount(group) / n
    of_all = np.einsum("g,gkhl,h->kl", share, covariance, share, optimize=True)
    # What was in these images differs from the population that they were drawn from, too.
    drawn = np.einsum("g,gk->k", share, (weight - share @ weight) ** 2) / n
    return np.asarray(np.sqrt(np.maximum(np.append(np.diagonal(of_all), of_all.sum()), 0.0) + drawn))
