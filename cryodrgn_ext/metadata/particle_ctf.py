"""The CTF parameters that every particle has of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.metadata.star_rows import IntArray

Float64Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ParticleCtf:
    """The CTF parameters that every particle has of its own; all arrays (N,) float64.

    Attributes
    ----------
    defocus_u_A, defocus_v_A : underfocus positive, as RELION's rlnDefocusU, rlnDefocusV
    defocus_angle_rad : from the x axis to the axis of defocus_u
    phase_shift_rad : 0 where the file has no rlnPhaseShift
    b_factor_A2 : rlnCtfBfactor, 0 where not given
    scale : rlnCtfScalefactor, 1 where not given
    """

    defocus_u_A: Float64Array
    defocus_v_A: Float64Array
    defocus_angle_rad: Float64Array
    phase_shift_rad: Float64Array
    b_factor_A2: Float64Array
    scale: Float64Array

    def subset(self, indices: IntArray) -> ParticleCtf:
        """Return the parameters of some particles."""
        return ParticleCtf(**{one.name: getattr(self, one.name)[indices] for one in fields(self)})
