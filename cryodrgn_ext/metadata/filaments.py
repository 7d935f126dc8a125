"""Filaments of CryoSPARC as RELION's helical tubes, and back.

RELION numbers the tubes of a micrograph, counts the length of the track from the start of the tube, and centres the
searches of helical refinements on priors: tilt 90 degrees, and psi from the direction of the tube on the micrograph,
minus the angle from x to it (``convertHelicalTubeCoordsToMetaDataTable`` of its ``helix.cpp``), whose two ends are
alike at first (rlnAnglePsiFlipRatio 0.5). The direction is taken from the positions of neighbouring segments, which
need no convention; CryoSPARC's filament/filament_pose, whose zero other converters do not agree on, only where a tube
has a single segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.metadata.cryosparc_source import CryosparcSource
from cryodrgn_ext.metadata.cs import AnyArray, CsTable
from cryodrgn_ext.metadata.optics import finite_column
from cryodrgn_ext.metadata.particle_ctf import Float64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particle_source import ParticleSource, Rows

FILAMENT = "filament"
_AGREEMENT_DEG = 10.0
#: Columns of RELION that a conversion of filaments writes.
TUBES = (
    "rlnHelicalTubeID", "rlnHelicalTrackLengthAngst", "rlnHelicalTrackLength", "rlnAngleTiltPrior", "rlnAnglePsiPrior",
    "rlnAnglePsiFlipRatio",
)  # fmt: skip
_SAME = 1e-3


@dataclass(frozen=True)
class Filaments:
    """Columns of RELION that describe filaments.

    Attributes
    ----------
    columns : dict of str to (n,) array
    notes : tuple of str
        What had to be assumed, one sentence each.
    """

    columns: dict[str, AnyArray]
    notes: tuple[str, ...] = ()


def filament_columns(source: ParticleSource, rows: Rows) -> Filaments:
    """Return RELION's columns of the filaments of a .cs; none when it has no filaments."""
    table = source.cs
    if f"{FILAMENT}/filament_uid" not in table:
        return Filaments({})
    uid = table.column(f"{FILAMENT}/filament_uid")[rows]
    micrograph = _micrograph_codes(table, rows)
    tubes, first, tube = np.unique(np.stack([micrograph, _codes(uid)], axis=1), axis=0,
                                   return_index=True, return_inverse=True)  # fmt: skip
    tube = tube.reshape(-1)
    # Numbers count from 1 on every micrograph, in order of appearance.
    order = np.lexsort((first, tubes[:, 0]))
    start = np.searchsorted(tubes[order, 0], tubes[order, 0])
    number = np.empty(len(tubes), np.int64)
    number[order] = np.arange(len(tubes)) - start + 1
    columns: dict[str, AnyArray] = {"rlnHelicalTubeID": number[tube]}
    track_A = None
    if f"{FILAMENT}/position_A" in table:
        position_A = table.floats(f"{FILAMENT}/position_A")[rows]
        begin = np.full(len(tubes), np.inf)
        np.minimum.at(begin, tube, position_A)
        track_A = position_A - begin[tube]
        columns["rlnHelicalTrackLengthAngst"] = track_A
    psi_deg, notes = _psi_priors(source, rows, tube, track_A)
    if psi_deg is not None:
        columns |= {
            "rlnAngleTiltPrior": np.full(len(rows), 90.0),
            "rlnAnglePsiPrior": psi_deg,
            "rlnAnglePsiFlipRatio": np.full(len(rows), 0.5),
        }
    return Filaments(columns, notes)


def _micrograph_codes(table: CsTable, rows: Rows) -> Rows:
    for field in ("location/micrograph_uid", "location/micrograph_path", "blob/path"):
        if field in table:
            return _codes(table.column(field)[rows])
    return np.zeros(len(rows), np.int64)


def _codes(values: AnyArray) -> Rows:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _psi_priors(
    source: ParticleSource, rows: Rows, tube: Rows, track_A: Float64Array | None
) -> tuple[Float64Array | None, tuple[str, ...]]:
    """Return (n,) psi in degrees, None when nothing tells it, and notes."""
    table, positions = source.cs, source.positions()
    psi_deg = np.full(len(rows), np.nan)
    if positions is not None and track_A is not None:
        psi_deg = _from_neighbours(positions.xy_px[rows], tube, track_A)
    known = np.isfinite(psi_deg)
    if f"{FILAMENT}/filament_pose" not in table:
        return (psi_deg, ()) if known.all() else (None, ())
    said_deg = -np.degrees(table.floats(f"{FILAMENT}/filament_pose")[rows])
    psi_deg = np.where(known, psi_deg, (said_deg + 180.0) % 360.0 - 180.0)
    notes = []
    if not known.all():
        notes.append(
            f"{int(np.count_nonzero(~known))} segments have no neighbour on their filament: their rlnAnglePsiPrior is "
            "minus filament/filament_pose, of which it has not been shown that RELION counts it from the same direction"
        )
    if known.any():
        apart = np.abs((said_deg[known] - psi_deg[known] + 90.0) % 180.0 - 90.0)
        if np.median(apart) > _AGREEMENT_DEG:
            notes.append(
                "rlnAnglePsiPrior is the direction of the filaments on the micrographs; filament/filament_pose counts "
                f"from another one (median difference {np.median(apart):.0f} degrees)"
            )
    return psi_deg, tuple(notes)


def _from_neighbours(xy_px: Float64Array, tube: Rows, track_A: Float64Array) -> Float64Array:
    """Return (n,) minus the angle in degrees from x to the line between the neighbours of every segment."""
    order = np.lexsort((track_A, tube))
    same = tube[order[1:]] == tube[order[:-1]]
    position = np.arange(len(order))
    before, after = position.copy(), position.copy()
    before[1:][same] -= 1
    after[:-1][same] += 1
    step = xy_px[order[after]] - xy_px[order[before]]
    psi_deg: npt.NDArray[np.float64] = np.full(len(order), np.nan)
    angle = -np.degrees(np.arctan2(step[:, 1], step[:, 0]))
    psi_deg[order] = np.where(np.any(step != 0, axis=1), angle, np.nan)
    return psi_deg


def filament_fields(particles: ParticleSet) -> dict[str, AnyArray]:
    """Return CryoSPARC's fields (N, ...) of the helical tubes of a STAR file; none when it has no tubes.

    A uid is made from the names of micrograph and tube. filament_pose is minus the prior of psi, as this module and
    public converters take it on the other way.
    """
    table, rows = particles.table, particles.row_id
    if "rlnHelicalTubeID" not in table:
        return {}
    tubes = next(one for one in particles.source.identities(rows) if one.relation == "filament").number
    micrograph = "rlnMicrographName" if "rlnMicrographName" in table else "rlnImageName"
    distinct, first, tube = np.unique(tubes, return_index=True, return_inverse=True)
    where, number = (table.text(label)[rows][first].tolist() for label in (micrograph, "rlnHelicalTubeID"))
    names = [f"{one.split('@')[-1]} {other}" for one, other in zip(where, number, strict=True)]
    uids = [int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") for name in names]
    fields: dict[str, AnyArray] = {
        f"{FILAMENT}/filament_uid": np.where(distinct < 0, 0, np.array(uids, np.uint64)).astype(np.uint64)[tube]
    }
    track_A = _track_A(particles)
    if track_A is not None:
        length = np.zeros(len(distinct))
        np.maximum.at(length, tube, track_A)
        fields |= {
            f"{FILAMENT}/position_A": track_A.astype(np.float32),
            f"{FILAMENT}/arc_length_A": length[tube].astype(np.float32),
        }
    if "rlnAnglePsiPrior" in table:
        psi = -np.radians(finite_column(table, "rlnAnglePsiPrior")[rows])
        fields[f"{FILAMENT}/filament_pose"] = psi.astype(np.float32)
    return fields


def changed_on_the_way_back(particles: ParticleSet, fields: dict[str, AnyArray]) -> frozenset[str]:
    """Return the columns of tubes whose values would not come back from a .cs with these fields.

    Tubes are numbered anew on every micrograph, tracks begin at 0, and priors are those of an extraction.
    """
    source = CryosparcSource(CsTable(particles.path, fields))
    back = filament_columns(source, np.arange(particles.n)).columns
    changed = set()
    for label in TUBES:
        if label not in particles.table:
            continue
        now = finite_column(particles.table, label)[particles.row_id]
        if label == "rlnHelicalTrackLength":
            now = now * particles.pixel_size_A
        then = back.get("rlnHelicalTrackLengthAngst" if label == "rlnHelicalTrackLength" else label)
        if then is None or not np.allclose(now, then, rtol=1e-6, atol=_SAME):
            changed.add(label)
    return frozenset(changed)


def _track_A(particles: ParticleSet) -> Float64Array | None:
    table, rows = particles.table, particles.row_id
    if "rlnHelicalTrackLengthAngst" in table:
        return finite_column(table, "rlnHelicalTrackLengthAngst")[rows]
    if "rlnHelicalTrackLength" in table:  # pixels of the images in RELION 3.0
        return np.asarray(finite_column(table, "rlnHelicalTrackLength")[rows] * particles.pixel_size_A)
    return None
