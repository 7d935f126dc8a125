"""Where in the volume density stands out that few particles have, or lack.

A state of a few particles in a thousand adds next to nothing to the variance of all images, and principal components
find directions of variance: below a threshold (Baik, Ben Arous & Peche 2005) noise of many voxels hides it, even where
each of its images shows the difference many times above its own noise. What these images are is not Gaussian, however:
most of them hold nothing of the difference, and some hold all of it.

Every image, less its model at its own latent, is therefore compared with a ball of density at every place of the box (a
matched filter under its CTF, which for a ball is one filtered image, looked at where the place projects to). Where a
state has density of its own the scores of few images stand far above those of the rest. The measure is the gain in log
likelihood of two Gaussians of equal width over one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.residuals import residuals, score_histograms
from cryodrgn_ext.engines.subspace.torch_form import Chunk
from cryodrgn_ext.progress import Monitor

WIDTHS = (0.035, 0.06)  # standard deviations of the balls, in boxes
SHARPEST = 0.25  # times the shortest period
BALL = 0.42  # of the box: where it is looked
SPACING = 1.2  # of places, in standard deviations of the ball
SAMPLES_PER_PERIOD = 4  # pixels of a score image per shortest period
LARGEST_SCORE, BIN = 20.0, 0.5
SHIFTS = (3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0)  # of rare images' scores, in widths of the others'
MOST = 0.05  # of the images, in a state that is called rare
USUAL = 0.003  # share that is tried first
REFINED = 300  # places whose share is fitted
ROUNDS = 12
UNIT_IMAGES = 256  # of which the size of scores is taken
FOCUS_LEVEL = 0.5

Weights = Callable[[Chunk], Tensor]
"""Weights (B, Q) of the components in the images of a chunk."""


@dataclass(frozen=True)
class Candidate:
    """A ball of density that few images hold.

    Attributes
    ----------
    place : Tensor
        (3,) x, y, z in voxels from the centre of the box.
    width : float
        Standard deviation of the ball in voxels.
    amplitude : float
        Peak of its Fourier transform: its mass; negative where density is lacking.
    gain : float
        Log likelihood gained, in nats.
    share : float
        Of the images.
    """

    place: Tensor
    width: float
    amplitude: float
    gain: float
    share: float


def ball_places(box_size: int, width: float) -> Tensor:
    """(G, 3) float32 places x, y, z in voxels, on a cubic grid within a ball about the centre of the box."""
    spacing = SPACING * width
    reach = int(BALL * box_size / spacing)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32) * spacing
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    places = torch.stack([x, y, z], -1).reshape(-1, 3)
    return places[places.square().sum(1) <= (BALL * box_size) ** 2].contiguous()


def _within(places: Tensor, focus: Tensor) -> Tensor:
    """(G,) bool: whether places (G, 3) lie in a mask (D, D, D)."""
    x, y, z = (places + len(focus) // 2).round().long().clamp(0, len(focus) - 1).unbind(1)
    return focus[z, y, x] > FOCUS_LEVEL


def ball_transform(norm2: Tensor, width: float, box_size: int) -> Tensor:
    """Fourier transform of a gaussian of unit mass at squared frequencies (in cycles per box)."""
    return torch.exp(-2 * (math.pi * width / box_size) ** 2 * norm2)


def score_images(rest: Tensor, whitened_ctf: Tensor, kxy: Tensor, envelope: Tensor, edge: int) -> tuple[Tensor, Tensor]:
    """Matched filter of residuals (B, M) with a ball seen through their whitened CTF (B, M).

    Returns
    -------
    scores : Tensor
        (B, E, E) float32, axes y, x, the centre of the box at pixel (0, 0): of unit variance in noise.
    sharpness : Tensor
        (B,) score of a ball of unit mass.
    """
    filtered = whitened_ctf * envelope
    sharpness = (2 * filtered.square().sum(1)).sqrt()
    kx, ky = kxy.long().unbind(1)
    values = rest * filtered
    values[:, (kx == 0) & (ky == 0)] *= 2  # its own partner: the transform counts every other coefficient twice
    spectrum = torch.zeros(len(rest), edge, edge // 2 + 1, dtype=torch.complex64, device=rest.device)
    spectrum[:, ky % edge, kx] = values
    on_axis = kx == 0
    spectrum[:, -ky[on_axis] % edge, 0] = values[:, on_axis].conj()
    sums = torch.fft.irfft2(spectrum, s=(edge, edge), norm="forward")
    return (sums / sharpness.clamp_min(1e-12)[:, None, None]).contiguous(), sharpness


def mixture_gain(histogram: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How much better two Gaussians of equal width describe scores than one.

    Parameters
    ----------
    histogram : Tensor
        (G, H) int64.
    edges : Tensor
        (H + 1,).

    Returns
    -------
    gain : Tensor
        (G,) float64 nats.
    shift : Tensor
        (G,) of the fewer scores, in units of the scores; may be negative.
    share : Tensor
        (G,) of the fewer scores.
    """
    count = histogram.double()
    total = count.sum(1, keepdim=True).clamp_min(1)
    below = torch.cat([torch.zeros_like(total), count.cumsum(1)], dim=1) / total
    quantiles = [_quantile(below, edges, level) for level in (0.1587, 0.5, 0.8413)]
    middle, width = quantiles[1], (0.5 * (quantiles[2] - quantiles[0])).clamp_min(float(edges[1] - edges[0]))
    centre = 0.5 * (edges[1:] + edges[:-1]).double()
    standard = (centre[None] - middle[:, None]) / width[:, None]
    best = torch.zeros(len(count), dtype=torch.float64)
    best_shift, best_share = torch.zeros_like(best), torch.full_like(best, USUAL)
    shifts = [sign * size for size in SHIFTS for sign in (1, -1)]
    for shift in shifts:
        gain = (count * torch.log1p(USUAL * torch.expm1((shift * standard - 0.5 * shift**2).clamp_max(60)))).sum(1)
        better = gain > best
        best, best_shift = torch.where(better, gain, best), torch.where(better, shift * width, best_shift)
    # The most likely share, where there is something.
    chosen = best.topk(min(REFINED, len(best))).indices
    count, total, standard, width = count[chosen], total[chosen], standard[chosen], width[chosen]
    for shift in shifts:
        ratio = torch.exp((shift * standard - 0.5 * shift**2).clamp(-60, 60))
        share = torch.full_like(total, USUAL)
        for _ in range(ROUNDS):
            share = ((count * share * ratio / (1 - share + share * ratio)).sum(1, keepdim=True) / total).clamp_max(MOST)
        gain = (count * torch.log1p(share * (ratio - 1))).sum(1)
        better = gain > best[chosen]
        best[chosen] = torch.where(better, gain, best[chosen])
        best_shift[chosen] = torch.where(better, shift * width, best_shift[chosen])
        best_share[chosen] = torch.where(better, share[:, 0], best_share[chosen])
    return best, best_shift, best_share


def _quantile(below: Tensor, edges: Tensor, level: float) -> Tensor:
    """(G,) where the share (G, H + 1) below the edges passes a level."""
    upper = (below < level).sum(1).clamp(1, below.shape[1] - 1)
    low, high = (below.gather(1, (upper - step)[:, None])[:, 0] for step in (1, 0))
    part = ((level - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return edges.double()[upper - 1] + part * (edges[1] - edges[0]).double()


def scan(
    band: Band, values: Tensor, rows: Tensor, weights: Weights, focus: Tensor | None, monitor: Monitor, label: str,
    count: int,
) -> list[Candidate]:  # fmt: skip
    """Places where few images hold density that their model lacks, or the other way round.

    Parameters
    ----------
    band : Band
    values : Tensor
        (V, 2, Qp) components.
    rows : Tensor
        Images to look at, those of this process.
    weights : callable
        Of the components in the images of a chunk.
    focus : Tensor or None
        (D, D, D) soft mask of the places that are looked at.
    monitor : Monitor
    label : str
        Of the progress.
    count : int
        At most so many, the best first, not closer together than the sum of their widths.
    """
    box, device = band.images.box_size, band.device
    edge = next_fast_len(max(32, SAMPLES_PER_PERIOD * band.radius), real=True)
    kxy = band.operators.kxy.to(device)
    edges = torch.arange(-LARGEST_SCORE, LARGEST_SCORE + BIN, BIN)
    widths = sorted({max(share, SHARPEST / band.radius) * box for share in WIDTHS})
    places = [ball_places(box, width) for width in widths]
    if focus is not None:
        places = [p[_within(p, focus)] for p in places]
    envelopes = [ball_transform(kxy.square().sum(1), width, box) for width in widths]

    def filtered(chunk: Chunk) -> Iterator[tuple[Tensor, Tensor]]:
        rest = residuals(band.operators, values, weights(chunk), chunk)
        for envelope in envelopes:
            yield score_images(rest, chunk.whitened_ctf, kxy, envelope, edge)

    # Where models fall short of images, or noise is underestimated, scores are larger than those of noise.
    workers = current()
    sums = torch.zeros(len(widths), 2, dtype=torch.float64)
    for chunk in band.chunks(rows[:UNIT_IMAGES]):
        for number, (scores, _) in enumerate(filtered(chunk)):
            sums[number] += torch.tensor([float(scores.double().square().sum()), scores.numel()])
    workers.sum(sums)
    units = (sums[:, 0] / sums[:, 1].clamp_min(1)).sqrt().clamp_min(1.0).tolist()
    histograms = [torch.zeros(len(p), len(edges) - 1, dtype=torch.int64) for p in places]
    sharpness, seen = torch.zeros(len(widths), dtype=torch.float64), 0
    for chunk in monitor.track(band.chunks(rows), label, len(rows), band.chunk_size):
        monitor.poll()
        for number, (scores, sharp) in enumerate(filtered(chunk)):
            here = (places[number] * (edge / box)).to(device)
            histograms[number] += score_histograms(scores / units[number], chunk.planes, here, edges).cpu()
            sharpness[number] += float(sharp.double().sum())
        seen += len(chunk.rows)
    total = torch.tensor([float(seen)], dtype=torch.float64)
    workers.sum(*histograms, sharpness, total)
    found: list[Candidate] = []
    for number, width in enumerate(widths):
        gain, shift, share = mixture_gain(histograms[number], edges)
        mass = shift * units[number] / (sharpness[number] / total.clamp_min(1)).clamp_min(1e-12)
        found += [
            Candidate(places[number][i], width, float(mass[i]), float(gain[i]), float(share[i]))
            for i in gain.argsort(descending=True)[: 20 * count].tolist()
        ]
    found.sort(key=lambda candidate: -candidate.gain)
    kept: list[Candidate] = []
    for candidate in found:
        apart = [float((candidate.place - other.place).norm()) > candidate.width + other.width for other in kept]
        if len(kept) < count and all(apart):
            kept.append(candidate)
    return kept
