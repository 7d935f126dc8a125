"""Specimens of Gaussian beads with known states: domains that turn, bend, come and go, drawn at random.

Shares no code with the package: the truth of a benchmark must not inherit the conventions of what it measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

FloatArray = NDArray[np.float64]
DRAWN_KINDS = ("linear", "bend", "circular", "two", "discrete", "compositional", "rare")
KINDS = (*DRAWN_KINDS, "antibody")
FULL_TURNS = ("circular", "antibody")
RADIUS_A = 0.66  # of a compact protein of one dalton: V = 1.21 Å^3 per dalton
CONTINUOUS_STATES = 48
GRID_STATES = 9  # of each of two motions
ANTIBODY_STATES = 100  # of a full turn of one Fab
IG_DOMAIN_A = (19.0, 13.0, 11.0)  # half axes of an immunoglobulin domain of 12.5 kDa


@dataclass(frozen=True)
class Specimen:
    """States of a specimen.

    Attributes
    ----------
    kind : str
        One of :data:`KINDS`.
    position_A : ndarray
        (S, n, 3) float32 beads of each state, x, y, z from the centre of the box.
    weight : ndarray
        (S, n) float32.
    occupancy : ndarray
        (S,) share of the particles; adds up to 1.
    coordinates : ndarray
        (S, L) what latents should tell of a state: degrees of each motion, or the number of the state.
    names : tuple of str
    sigma_A : float
        Width of the beads.
    """

    kind: str
    position_A: NDArray[np.float32]
    weight: NDArray[np.float32]
    occupancy: FloatArray
    coordinates: FloatArray
    names: tuple[str, ...]
    sigma_A: float

    @property
    def radius_A(self) -> float:
        """Largest distance of a bead from the centre."""
        return float(np.linalg.norm(self.position_A, axis=2).max())

    @property
    def targets(self) -> FloatArray:
        """(S, T) numbers in which equal distances are equal differences, for R² of any kind of truth."""
        return truth_targets(self.kind, self.coordinates)


def truth_targets(kind: str, coordinates: FloatArray) -> FloatArray:
    """Numbers (S, T) that latents should predict: sine and cosine of a full turn, one column per discrete state."""
    if kind in FULL_TURNS:
        angle = np.deg2rad(coordinates[:, 0])
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if kind in ("discrete", "compositional", "rare"):
        return np.eye(len(coordinates))
    return coordinates / np.maximum(np.ptp(coordinates, axis=0), 1e-9)  # type: ignore[no-any-return]


def _domain(n: int, radius_A: float, rng: np.random.Generator) -> FloatArray:
    """(n, 3) beads of a compact chain within an ellipsoid of about ``radius_A``, centred."""
    return _chain(n, radius_A * rng.uniform(0.7, 1.3, 3), radius_A * (4.0 / max(n, 2)) ** (1 / 3), rng)


def _chain(n: int, axes: FloatArray, step: float, rng: np.random.Generator) -> FloatArray:
    """(n, 3) beads of a random walk within an ellipsoid of half axes (3,), centred."""
    beads, here = np.zeros((n, 3)), np.zeros(3)
    for i in range(n):
        while True:
            there = here + rng.normal(0, step / np.sqrt(3), 3)
            if np.sum((there / axes) ** 2) < 1:
                break
        beads[i] = here = there
    return beads - beads.mean(0)  # type: ignore[no-any-return]


def _turned(beads: FloatArray, axis: FloatArray, hinge: FloatArray, degrees: FloatArray) -> FloatArray:
    """(S, n, 3) beads turned about an axis through a hinge, by ``degrees`` (S,), or (S, n) for each bead."""
    angle = np.deg2rad(np.broadcast_to(degrees.reshape(len(degrees), -1), (len(degrees), len(beads))))
    arm = beads - hinge
    along = (arm @ axis)[:, None] * axis
    cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
    return hinge + arm * cos + np.cross(axis, arm) * sin + along * (1 - cos)  # type: ignore[no-any-return]


def _direction(rng: np.random.Generator) -> FloatArray:
    v: FloatArray = rng.normal(size=3)
    return v / np.linalg.norm(v)


def _shares(n: int, rng: np.random.Generator) -> FloatArray:
    """Occupancies of states along a coordinate: even, leaning to one side, or with two peaks."""
    t = np.linspace(0, 1, n)
    which = rng.integers(3)
    if which == 0:
        p = np.ones(n)
    elif which == 1:
        p = 0.3 + t
    else:
        p = 0.15 + np.exp(-(((t - 0.25) / 0.15) ** 2)) + 0.7 * np.exp(-(((t - 0.75) / 0.15) ** 2))
    return p / p.sum()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Parts:
    """A body and domains at its surface; the particle's radius, and how many states the discrete kinds have."""

    body: FloatArray
    domains: list[FloatArray]
    hinges: list[FloatArray]
    radius_A: float
    n_states: int


def _parts(n_beads: int, radius_A: float, n_states: int, shares: list[float], rng: np.random.Generator) -> _Parts:
    sizes = [max(8, round(n_beads * share)) for share in shares]
    body_n = max(16, n_beads - sum(sizes))
    body_radius = radius_A * (body_n / n_beads) ** (1 / 3)
    body = _domain(body_n, body_radius, rng)
    directions: list[FloatArray] = []
    while len(directions) < len(sizes):
        candidate = _direction(rng)
        # Where there is room; with many domains they overlap, as subunits that exclude each other do.
        if all(candidate @ other < 0.5 for other in directions) or len(sizes) > 4:
            directions.append(candidate)
    domains, hinges = [], []
    for size, direction in zip(sizes, directions, strict=True):
        reach = radius_A * (size / n_beads) ** (1 / 3)
        hinges.append(direction * body_radius * 0.9)
        domains.append(_domain(size, reach, rng) + direction * (body_radius * 0.9 + 0.8 * reach))
    return _Parts(body, domains, hinges, radius_A, n_states)


def make_specimen(
    kind: str, mass_kDa: float, n_beads: int, sigma_A: float, n_states: int, rng: np.random.Generator
) -> Specimen:
    """Draw a specimen.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`.
    mass_kDa : float
        Sets its size; an antibody has its own.
    n_beads : int
    sigma_A : float
        Width of a bead.
    n_states : int
        Of the discrete kinds.
    rng : numpy Generator
    """
    if kind == "antibody":
        return _antibody(n_beads, sigma_A, rng)
    radius = RADIUS_A * (1000 * mass_kDa) ** (1 / 3)
    shares = {
        "linear": [rng.uniform(0.12, 0.35)], "bend": [], "circular": [rng.uniform(0.15, 0.35)],
        "two": [rng.uniform(0.12, 0.22), rng.uniform(0.12, 0.22)],
        "discrete": [rng.uniform(0.15, 0.3)], "compositional": [float(s) for s in rng.uniform(0.04, 0.12, 5)],
        "rare": [rng.uniform(0.06, 0.12)],
    }[kind]  # fmt: skip
    parts = _parts(n_beads, radius, n_states, shares, rng)
    states, weight, occupancy, coordinates, names = _STATES[kind](parts, rng)
    centre = np.average(states.reshape(-1, 3), axis=0)
    return Specimen(
        kind, (states - centre).astype(np.float32), weight.astype(np.float32), occupancy, coordinates, names, sigma_A
    )


_States = tuple[FloatArray, FloatArray, FloatArray, FloatArray, tuple[str, ...]]


def _assemble(parts: _Parts, moved: list[FloatArray]) -> FloatArray:
    s = max(len(m) for m in moved) if moved else 1
    every = [
        np.broadcast_to(parts.body, (s, *parts.body.shape)),
        *(np.broadcast_to(m, (s, *m.shape[1:])) for m in moved),
    ]
    return np.concatenate(every, axis=1)


def _hinged(parts: _Parts, rng: np.random.Generator) -> _States:
    angle = np.linspace(-0.5, 0.5, CONTINUOUS_STATES) * rng.uniform(25, 90)
    beads = _assemble(parts, [_turned(parts.domains[0], _direction(rng), parts.hinges[0], angle)])
    return beads, np.ones(beads.shape[:2]), _shares(len(angle), rng), angle[:, None], ("angle_deg",)


def _bent(parts: _Parts, rng: np.random.Generator) -> _States:
    """The whole particle bends: each slab turns by an angle in proportion to its distance from the middle."""
    along = _direction(rng)
    axis = np.cross(along, _direction(rng))
    axis /= np.linalg.norm(axis)
    angle = np.linspace(-0.5, 0.5, CONTINUOUS_STATES) * rng.uniform(15, 35)
    elongated = parts.body + 0.8 * (parts.body @ along)[:, None] * along
    place = np.clip(elongated @ along / (1.5 * parts.radius_A), -1, 1)
    beads = _turned(elongated, axis, np.zeros(3), angle[:, None] * place)
    return beads, np.ones(beads.shape[:2]), _shares(len(angle), rng), angle[:, None], ("angle_deg",)


def _circular(parts: _Parts, rng: np.random.Generator) -> _States:
    angle = np.arange(CONTINUOUS_STATES) * 360.0 / CONTINUOUS_STATES
    direction = parts.hinges[0] / np.linalg.norm(parts.hinges[0])
    axis = np.cross(direction, _direction(rng))
    axis = axis / np.linalg.norm(axis) + 0.8 * direction  # a cone, so that the domain stays beside the body
    beads = _assemble(parts, [_turned(parts.domains[0], axis / np.linalg.norm(axis), parts.hinges[0], angle)])
    even = np.full(len(angle), 1 / len(angle))
    return beads, np.ones(beads.shape[:2]), even, angle[:, None], ("turn_deg",)


def _two(parts: _Parts, rng: np.random.Generator) -> _States:
    angles = [np.linspace(-0.5, 0.5, GRID_STATES) * rng.uniform(30, 80) for _ in range(2)]
    first, second = (a.ravel() for a in np.meshgrid(*angles, indexing="ij"))
    moved = [_turned(parts.domains[i], _direction(rng), parts.hinges[i], a) for i, a in enumerate((first, second))]
    beads = _assemble(parts, moved)
    share = np.outer(_shares(GRID_STATES, rng), _shares(GRID_STATES, rng)).ravel()
    return beads, np.ones(beads.shape[:2]), share, np.stack([first, second], 1), ("first_deg", "second_deg")


def _discrete(parts: _Parts, rng: np.random.Generator) -> _States:
    """A domain at unrelated orientations about its hinge."""
    arm = parts.domains[0] - parts.hinges[0]
    turns = Rotation.from_rotvec([_direction(rng) * np.deg2rad(rng.uniform(20, 90)) for _ in range(parts.n_states)])
    moved = np.stack([arm @ turn.as_matrix().T for turn in turns]) + parts.hinges[0]
    beads = _assemble(parts, [moved])
    share = rng.dirichlet(np.full(parts.n_states, 4.0))
    return beads, np.ones(beads.shape[:2]), share, np.arange(parts.n_states, dtype=float)[:, None], ("state",)


def _compositional(parts: _Parts, rng: np.random.Generator) -> _States:
    """Domains that are there or not."""
    count = min(parts.n_states, 2 ** len(parts.domains) - 1)
    patterns = rng.permutation(np.arange(1, 2 ** len(parts.domains)))[:count]
    present = (patterns[:, None] >> np.arange(len(parts.domains))) & 1
    beads = np.repeat(_assemble(parts, [d[None] for d in parts.domains]), count, axis=0)
    columns = [np.ones((count, len(parts.body)))]
    columns += [np.repeat(present[:, i : i + 1], len(d), axis=1) for i, d in enumerate(parts.domains)]
    return beads, np.hstack(columns), rng.dirichlet(np.full(count, 4.0)), np.arange(count)[:, None] * 1.0, ("state",)


def _rare(parts: _Parts, rng: np.random.Generator) -> _States:
    """One state, and another of 2 to 5 % of the particles that has a domain more."""
    beads = np.repeat(_assemble(parts, [parts.domains[0][None]]), 2, axis=0)
    weight = np.ones(beads.shape[:2])
    weight[0, len(parts.body) :] = 0
    share = rng.uniform(0.02, 0.05)
    return beads, weight, np.array([1 - share, share]), np.array([[0.0], [1.0]]), ("state",)


def _antibody(n_beads: int, sigma_A: float, rng: np.random.Generator) -> Specimen:
    """Fc and two Fabs of four domains each; one Fab turns fully about an axis at 45 degrees to its length.

    The protocol of CryoBench's IgG-1D (Jeon et al. 2024): 100 conformations, evenly occupied.
    """

    def arm(along: FloatArray, begin_A: float) -> FloatArray:
        """Two pairs of domains, one behind the other, along a direction from the hinge."""
        across = np.cross(along, _direction(rng))
        across /= np.linalg.norm(across)
        frame = np.stack([along, across, np.cross(along, across)])
        size, axes = n_beads // 12, np.array(IG_DOMAIN_A)
        step = float(np.prod(axes)) ** (1 / 3) * (4.0 / size) ** (1 / 3)
        places = [(begin_A + axes[0] * (1 + 2 * far), 0.95 * axes[1] * side, 0.0) for far in (0, 1) for side in (-1, 1)]
        return np.concatenate([(_chain(size, axes, step, rng) + place) @ frame for place in places])

    down = np.array([0.0, 0.0, -1.0])
    left, right = (np.array([x, 0.0, 0.5]) / np.hypot(1.0, 0.5) for x in (-1.0, 1.0))
    fab = arm(right, 8.0)
    turn_axis = right + np.cross(right, np.array([0.0, 1.0, 0.0]))
    angle = np.arange(ANTIBODY_STATES) * 360.0 / ANTIBODY_STATES
    moved = _turned(fab, turn_axis / np.linalg.norm(turn_axis), np.zeros(3), angle)
    still = np.concatenate([arm(down, 12.0), arm(left, 8.0)])
    beads = np.concatenate([np.broadcast_to(still, (len(angle), *still.shape)), moved], axis=1)
    beads = beads - beads.reshape(-1, 3).mean(0)
    even = np.full(len(angle), 1 / len(angle))
    return Specimen("antibody", beads.astype(np.float32), np.ones(beads.shape[:2], np.float32), even, angle[:, None],
                    ("turn_deg",), sigma_A)  # fmt: skip


_STATES = {
    "linear": _hinged, "bend": _bent, "circular": _circular, "two": _two, "discrete": _discrete,
    "compositional": _compositional, "rare": _rare,
}  # fmt: skip
