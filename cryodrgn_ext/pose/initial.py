"""A map from nothing: expectation maximisation at low frequencies, over mini-batches, from a random map.

The random map is a backprojection of images at random orientations. Then every step takes some images, gives each a
posterior over all rotations of a grid and all shifts (Zhong 2022, eq. 5.2, uniform prior), and replaces part of the
running sums of the backprojection by theirs (online EM; Cappé and Moulines 2009, J. R. Stat. Soc. B 71). Both halves
are matrix products over the shared grid: scores are images times slices, and the sums of every grid slice are
posteriors times images, so that no image is ever inserted by itself. Posteriors are tempered at first, and cooled
slowly from where the map breaks out of the symmetry of indifference (deterministic annealing, see :class:`Schedule`): a
random map that takes itself seriously stays what it is.

The map is regularised by the power that the images themselves say it has: orientations spread the frequencies of a
slice over a shell, so the mean power of CTF-corrected, noise-corrected images is that of the map, without any pose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryodrgn_ext.fourier import so3_grid
from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.shells import shell_sum
from cryodrgn_ext.fourier.slices import FourierAccumulator, FourierGrid, FourierVolume, friedel_sum
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.centring import centre_of_mass, move_spectrum, rounded
from cryodrgn_ext.pose.expectation import SearchGrid, expectation
from cryodrgn_ext.pose.model import points_on
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums

OVERSAMPLING = 2
#: Power assumed at least, as a fraction of the largest: where noise drowns the estimate.
LEAST_POWER = 1e-5
#: Posteriors are tempered until images decide by no more than this many nats: with next to no noise they would choose
#: among the poses of a random map at once, and for good.
MOST_NATS = 150.0
#: Shells that the box of a low-band map has room for beyond its own.
SPARE_SHELLS = 4
#: Shifts per period of the highest frequency.
SHIFTS_PER_PERIOD = 3.0
#: Grid of rotations, 15° apart.
GRID_LEVEL = 1


@dataclass(frozen=True)
class Schedule:
    """Annealing of a random initialisation: posteriors are cooled at one band.

    While posteriors are warm, the only stable map is one that looks the same from everywhere. At some temperature it
    breaks, along what images differ in most, and there cooling has to be slow: a map that is quenched keeps the first
    break by chance. (Rose 1998, Proc. IEEE 86, on deterministic annealing.)

    Attributes
    ----------
    turns : float
        Cycles of the highest frequency along the radius of the mask. It fixes the band: higher ones would need a finer
        grid than one of 15°.
    batch : int
        Images of a step.
    first_exponent : float
        Exponent of the likelihood in the first step, as a share of the last one's.
    warming : float
        Factor of the exponent from step to step while posteriors tell nothing.
    cooling : float
        The same after that.
    indifferent : float
        Posteriors tell nothing while their effective number of rotations is above this share of the grid.
    final_steps : int
        Steps at the last exponent.
    most_steps : int
    rate : float
        Share of the running sums that a step replaces.
    """

    turns: float = 3.4
    batch: int = 200
    first_exponent: float = 0.15
    warming: float = 1.15
    cooling: float = 1.03
    indifferent: float = 0.5
    final_steps: int = 4
    most_steps: int = 90
    rate: float = 0.2

    def radius(self, box_size: int, mask_radius_px: float) -> float:
        """Band in cycles per box."""
        return self.turns * box_size / mask_radius_px

    def first_rate(self, step: int) -> float:
        """Share of the running sums that a step replaces: more at first, when the map is of random orientations."""
        return max(self.rate, float((step + 1.0) ** -0.6))

    def next_exponent(self, exponent: float, effective_share: float) -> float:
        """Exponent of the next step, as a share of the last one's."""
        return min(1.0, exponent * (self.warming if effective_share > self.indifferent else self.cooling))


def signal_power(images: ParticleImages, scorer: Scorer) -> Float[Tensor, " S"]:
    """Mean |V̂|² per shell that the images of a scorer tell, whatever their poses.

    E|y|² = c² |V̂|² + w with the noise power w of a windowed image; averaged with weights c².

    Returns
    -------
    Tensor
        (S,) float64 for shells 0 .. S - 1 of the scorer's band, positive.
    """
    count = len(scorer.kxy)
    shell = scorer.plane.shell[:count].to(scorer.device)
    multiplicity = scorer.plane.multiplicity[:count].to(scorer.device)
    noise = images.window_power[images.optics_index[scorer.rows]].to(scorer.device)
    n_shells = int(shell[-1]) + 1
    signal = torch.zeros(n_shells, dtype=torch.float64, device=scorer.device)
    weight = torch.zeros_like(signal)
    for part in torch.arange(len(scorer), device=scorer.device).split(1024):
        power = scorer.power[part]
        excess = scorer.data[part].abs().square() - power * multiplicity * noise[part, None]
        signal += shell_sum(excess, shell, n_shells).sum(0)
        weight += shell_sum(power.square(), shell, n_shells).sum(0)
    found = signal / weight.clamp_min(1e-30)
    if n_shells > 1:
        found[0] = found[1]  # normalising the background took the mean of every image
    return found.clamp_min(LEAST_POWER * float(found.max().clamp_min(1e-30)))


def information(scorer: Scorer, power: Float[Tensor, " S"], radius: float) -> float:
    """Mean nats by which the images of a scorer would prefer the true map and pose to no particle, up to a band."""
    count = scorer.count(radius)
    shell = scorer.plane.shell[:count].to(scorer.device)
    mass = torch.stack([part[:, :count].double().sum(0) for part in scorer.power.split(1024)]).sum(0) / len(scorer)
    return float(0.5 * (mass * power.to(mass.device)[shell]).sum())


def shift_disc(extent_px: float, step_px: float) -> Float[Tensor, "T 2"]:
    """(T, 2) shifts on a square lattice of about ``step_px`` within a square of half edge ``extent_px``, rounded off.

    The corners beyond 1.2 times the extent are left out.
    """
    if extent_px <= 0:
        return torch.zeros(1, 2)
    half = max(1, math.ceil(extent_px / step_px - 1e-6))  # never farther apart: a shift in between fits no rotation
    axis = torch.arange(-half, half + 1, dtype=torch.float32) * (extent_px / half)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    both = torch.stack([x.flatten(), y.flatten()], dim=1)
    return both[both.norm(dim=1) <= 1.2 * extent_px]


class LowBandMap:
    """Running sums of a backprojection at low frequencies, per image, and the map that they stand for.

    Parameters
    ----------
    box_size, radius : int
    power : Tensor
        (>= radius + 1,) mean |V̂|² per shell, see :func:`signal_power`.
    mask : Tensor
        (D, D, D) soft mask of where the particle may be.
    """

    def __init__(self, box_size: int, radius: int, power: Tensor, mask: Tensor) -> None:
        self.grid = FourierGrid(box_size, radius, OVERSAMPLING)
        self.mask = mask
        # Grid points are OVERSAMPLING³ times as dense as independent values, and each sees a part of their weight.
        self.prior = (1.0 / (OVERSAMPLING**3 * power[: radius + 1].double())).cpu()
        sums = FourierAccumulator(self.grid, mask.device)
        self.numerator, self.weight = sums.numerator, sums.weight
        self.effective = 0.0

    def update(self, sums: FourierAccumulator, n_images: int, rate: float) -> None:
        """Replace a share ``rate`` of the sums by those over ``n_images`` images."""
        self.numerator = (1.0 - rate) * self.numerator + (rate / n_images) * sums.numerator
        self.weight = (1.0 - rate) * self.weight + (rate / n_images) * sums.weight
        # Images that sums with these shares are worth: 1 / sum of squared shares, for large numbers of steps.
        self.effective = n_images if rate >= 1.0 else (1.0 - rate) * self.effective + n_images

    def solve(self) -> Tensor:
        """(D, D, D) map within the mask."""
        return self.solve_in(self.grid.box_size) * self.mask

    def solve_in(self, box_size: int) -> Tensor:
        """Map of the same extent in a box of another number of voxels."""
        n, grid = self.effective, FourierGrid(box_size, self.grid.radius, OVERSAMPLING)
        sums = BackprojectionSums(grid, friedel_sum(self.numerator * n), friedel_sum(self.weight * n), int(n))
        return sums.solve(self.prior)

    def centre(self, volume: Tensor) -> Tensor:
        """Move sums and map, by whole voxels, so that the centre of mass is at the centre of the box."""
        offset = rounded(centre_of_mass(volume))
        if not bool(offset.any()):
            return volume
        self.numerator = move_spectrum(self.numerator, self.grid, -offset)
        return torch.roll(volume, (-offset).flip(0).int().tolist(), (0, 1, 2))


def _by_frequency_matrix(scorer: Scorer, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Frequency matrices (2, 2) among some images, each with its rows."""
    distinct, kind = scorer.frequency_matrix[rows].flatten(1).unique(dim=0, return_inverse=True)
    return [(matrix.view(2, 2), rows[kind == number]) for number, matrix in enumerate(distinct)]


def random_initial_map(
    scorer: Scorer,
    power: Float[Tensor, " S"],
    schedule: Schedule,
    shift_extent_px: float,
    mask_radius_px: float,
    seed: int,
    monitor: Monitor,
) -> Float[Tensor, "D D D"]:
    """Make a map from nothing.

    Parameters
    ----------
    scorer : Scorer
        Holds the images, at least up to the last band.
    power : Tensor
        See :func:`signal_power`.
    schedule : Schedule
    shift_extent_px : float
        Particles lie up to this off the centre, along x and y.
    mask_radius_px : float
        Radius of the sphere that the particle lies in.
    seed : int
    monitor : Monitor
        Polled at every step.

    Returns
    -------
    Tensor
        (D, D, D) map with frequencies up to the last band.
    """
    generator = torch.Generator().manual_seed(seed)
    d, device, n = scorer.box_size, scorer.device, len(scorer)
    radius = min(schedule.radius(d, mask_radius_px), float(scorer.plane.shell[len(scorer.kxy) - 1]))
    last = math.ceil(radius)
    # So few frequencies need few voxels: what costs time then are the images alone.
    small = min(d, 2 * (last + SPARE_SHELLS))
    radius_here = mask_radius_px * small / d
    running = LowBandMap(small, last, power, spherical_mask(small, 0.9 * radius_here, 0.1 * radius_here, device))
    batch = min(schedule.batch, n)
    volume = _from_random_angles(scorer, running, batch, generator)
    kxy = scorer.kxy[: scorer.count(radius)]
    shifts = shift_disc(shift_extent_px, d / (SHIFTS_PER_PERIOD * radius))
    grid = SearchGrid.of(GRID_LEVEL, kxy, shifts, d)
    highest = min(1.0, MOST_NATS / max(information(scorer, power, radius), 1e-9))
    share, left = schedule.first_exponent, schedule.final_steps
    order = torch.empty(0, dtype=torch.int64)
    for step in range(schedule.most_steps):
        monitor.poll()
        if len(order) < batch:
            order = torch.randperm(n, generator=generator)
        rows, order = order[:batch].to(device), order[batch:]
        model = FourierVolume.from_map(volume, OVERSAMPLING, last)
        sums = FourierAccumulator(running.grid, device)
        effective = []
        for matrix, members in _by_frequency_matrix(scorer, rows):
            found = expectation(scorer, members, model, grid, matrix, share * highest)
            # Coefficients are counted twice, for their partners.
            sums.insert(found.points, 0.5 * found.numerator, 0.5 * found.weight)
            effective.append(found.effective_rotations)
        running.update(sums, len(rows), schedule.first_rate(step))
        volume = running.centre(running.solve())
        if share >= 1.0:
            left -= 1
            if left <= 0:
                break
        share = schedule.next_exponent(share, float(torch.cat(effective).median()) / grid.n_rotations)
    return running.solve_in(d) * spherical_mask(d, 0.9 * mask_radius_px, 0.1 * mask_radius_px, device)


def _from_random_angles(scorer: Scorer, running: LowBandMap, batch: int, generator: torch.Generator) -> Tensor:
    """Map from some images at random rotations."""
    level = 2
    rows = torch.randperm(len(scorer), generator=generator)[:batch]
    chosen = torch.randint(so3_grid.n_rotations(level), (batch,), generator=generator)
    rotation = torch.from_numpy(so3_grid.rotations(level, chosen.numpy())).to(scorer.device, torch.float32)
    rows = rows.to(scorer.device)
    count = scorer.count(float(running.grid.radius))
    points = points_on(scorer.frequency_matrix[rows] @ rotation[:, :2], scorer.kxy[:count])
    sums = FourierAccumulator(running.grid, scorer.device)
    sums.insert(points, 0.5 * scorer.data[rows, :count], 0.5 * scorer.power[rows, :count])
    running.update(sums, batch, 1.0)
    return running.solve()
