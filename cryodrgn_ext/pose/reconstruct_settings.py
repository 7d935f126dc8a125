"""Settings of an ab initio reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.scoring import DEFAULT_MEMORY_BYTES

#: How all orientations are searched, see :mod:`cryodrgn_ext.pose.all_orientations`.
SearchAlgorithm = Literal["exhaustive", "branch_and_bound"]

#: Default of ``max_shift_px`` and of ``mask_radius_px``, as fractions of the box.
DEFAULT_SHIFT, DEFAULT_MASK_RADIUS = 0.1, 0.42
#: Particles that random initialisations are made from, when the user does not say.
INITIALISATION_PARTICLES = 2000
#: Particles whose poses converge before all others join them, when the user does not say; and by which factor there
#: must be more of them for that to be worth while.
CORE_PARTICLES, WORTH_A_CORE = 20_000, 1.5


@dataclass(frozen=True)
class ReconstructSettings:
    """Settings of :func:`cryodrgn_ext.pose.abinit.reconstruct`.

    Attributes
    ----------
    initialisations : int
        Random initialisations that are made at least. One more follows while no second one, refined, agrees with the
        likeliest.
    initialisation_particles : int, optional
        Particles that they are made from; 2,000, or all when there are fewer.
    core_particles : int, optional
        Particles whose poses and map are refined until they converge, before all others are aligned to that map;
        20,000, or all when there are not many more.
    max_shift_px : float, optional
        Particles lie up to this off the centre of their image, along x and y, in pixels of the working box; a tenth
        of the box when omitted.
    mask_radius_px : float, optional
        Radius of a sphere that holds the particle, in pixels of the working box; 0.42 of the box when omitted.
    search : {"exhaustive", "branch_and_bound"}
        How all orientations are searched.
    rounds : int
        Most rounds of refinement.
    symmetry : str
        Point group (RELION's name) that maps have in the coordinates of the poses, and that is imposed on them.
    seed : int
        Everything random follows from it.
    device : str, optional
        Where to compute; where the images are when None.
    memory_bytes : int
        Bound of working memory besides the maps.
    """

    initialisations: int = 3
    initialisation_particles: int | None = None
    core_particles: int | None = None
    max_shift_px: float | None = None
    mask_radius_px: float | None = None
    search: SearchAlgorithm = "exhaustive"
    rounds: int = 24
    symmetry: str = "C1"
    seed: int = 0
    device: str | None = None
    memory_bytes: int = DEFAULT_MEMORY_BYTES

    def shift_extent(self, box_size: int) -> float:
        """Largest shift in pixels, chosen where it was not given."""
        return DEFAULT_SHIFT * box_size if self.max_shift_px is None else self.max_shift_px

    def mask_radius(self, box_size: int) -> float:
        """Radius of the sphere in pixels, chosen where it was not given."""
        return DEFAULT_MASK_RADIUS * box_size if self.mask_radius_px is None else self.mask_radius_px

    def core(self, n: int) -> int:
        """Particles out of ``n`` that are refined first."""
        wanted = CORE_PARTICLES if self.core_particles is None else self.core_particles
        return wanted if n > WORTH_A_CORE * wanted else n

    def check(self, images: ParticleImages) -> None:
        """Refuse what cannot be.

        Raises
        ------
        InputError
        """
        d = images.box_size
        bounds = (
            ("number of random initialisations", self.initialisations, 1, 1000),
            ("number of rounds", self.rounds, 1, 10_000),
            ("number of particles refined first", self.core(images.n), min(2, images.n), images.n),
            ("largest shift (pixels)", self.shift_extent(d), 0, d / 2),
            ("radius of the mask (pixels)", self.mask_radius(d), 2, d / 2),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise InputError(
                    f"ab initio: the {name} is {value:g}, but must lie in {low:g}..{high:g} for a box of {d} pixels"
                )
        few = self.initialisation_particles
        if few is not None and few < 1:
            raise InputError(f"ab initio: random initialisations need particles, but {few} are asked for")
        if images.n < 2 or len(images.half_set.unique()) < 2:
            raise InputError(
                f"ab initio: two half-maps need particles in both half-sets, but the {images.n} particles are not "
                "in two halves"
            )
