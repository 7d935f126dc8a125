"""Dependencies of every column of RELION and every field of CryoSPARC, and their fate when those change.

One table for all writers, and for the page of the documentation that is made from it (``docs/make_columns_page.py``).
When poses, pixel sizes or defocus change, columns that describe the old ones are renewed, dropped, or named to the
user; which of these is written here and nowhere else. Columns are those of particles and optics tables of RELION 3.0
to 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Treatment(Enum):
    """Action of a writer on a column when something that it depends on has changed."""

    KEPT = "kept"
    RENEWED = "renewed"
    DROPPED = "dropped"
    #: Renewed where particles are segments of filaments, whose refinement in RELION stops without it; else dropped.
    RENEWED_IN_HELICES = "renewed in filaments, else dropped"
    #: Kept, but named to the user: it was measured with the old values.
    NAMED = "kept and named"


@dataclass(frozen=True)
class RelionColumn:
    """A column of a particles or optics table.

    Attributes
    ----------
    label : str
    field : str
        The field of a .cs that it is converted to; "" when it is not converted.
    pose, pixel, defocus : Treatment
        What a writer does when poses, pixel sizes or defocus have changed.
    note : str
        What the page says of it.
    """

    label: str
    field: str = ""
    pose: Treatment = Treatment.KEPT
    pixel: Treatment = Treatment.KEPT
    defocus: Treatment = Treatment.KEPT
    note: str = ""


@dataclass(frozen=True)
class CryosparcField:
    """A field of a .cs dataset; slots of the same kind share one entry.

    Attributes
    ----------
    name : str
        ``*`` stands for a number in the name of a slot.
    column : str
        The column of RELION that it is converted to; "" when it is not converted.
    counterpart : bool
        Whether RELION has a column for this at all.
    pose : Treatment
        What a writer of .cs files does when poses have changed.
    note : str
        What the page says of it.
    """

    name: str
    column: str = ""
    counterpart: bool = True
    pose: Treatment = Treatment.KEPT
    note: str = ""


def _carried(*labels: str, note: str = "", pixel: Treatment = Treatment.KEPT) -> tuple[RelionColumn, ...]:
    """Columns that stay as they are in every file of RELION, and have no field in a .cs."""
    return tuple(RelionColumn(label, pixel=pixel, note=note) for label in labels)


_R, _D, _H, _N = Treatment.RENEWED, Treatment.DROPPED, Treatment.RENEWED_IN_HELICES, Treatment.NAMED

RELION_COLUMNS: tuple[RelionColumn, ...] = (
    # images
    RelionColumn("rlnImageName", "blob/path, blob/idx"),
    RelionColumn("rlnImageOriginalName"),
    RelionColumn("rlnReconstructImageName"),
    RelionColumn("rlnImageId"),
    RelionColumn("rlnParticleId"),
    RelionColumn("rlnParticleName"),
    RelionColumn("rlnOriginalParticleName"),
    RelionColumn("rlnImageWeight"),
    RelionColumn("rlnNormCorrection", pose=_N, note="scale of an image against the map of an earlier refinement"),
    RelionColumn("rlnAverageValue"),
    RelionColumn("rlnStandardDeviationValue"),
    RelionColumn("rlnMinimumValue"),
    RelionColumn("rlnMaximumValue"),
    RelionColumn("rlnSkewnessValue"),
    RelionColumn("rlnKurtosisExcessValue"),
    RelionColumn("rlnIsFlip"),
    *_carried("rlnImageSizeX", "rlnImageSizeY", "rlnImageSizeZ", "rlnSamplingRate", "rlnSamplingRateX",
              "rlnSamplingRateY", "rlnSamplingRateZ", note="of older programs; rlnImageSize and the pixel size count",
              pixel=_N),
    *_carried("rlnComment", "rlnDataType", "rlnEnabled", "rlnSelected", "rlnSortedIndex", "rlnUnknownLabel",
              "rlnParticleNumber", "rlnOrientationsID"),
    *_carried("rlnMovieFrameNumber", "rlnNrOfFrames", "rlnAverageNrOfFrames", "rlnMovieFramesRunningAverage",
              note="of movie particles"),
    # optics
    RelionColumn("rlnOpticsGroup", "ctf/exp_group_id", note="the number minus 1, or minus the lowest, if below 1"),
    RelionColumn("rlnOpticsGroupName", note="a .cs has numbers only; named unless it is opticsGroupN"),
    RelionColumn("rlnVoltage", "ctf/accel_kv", note="of the particle where it has one, else of its group"),
    RelionColumn("rlnSphericalAberration", "ctf/cs_mm", pixel=_N),
    RelionColumn("rlnAmplitudeContrast", "ctf/amp_contrast"),
    RelionColumn("rlnImagePixelSize", "blob/psize_A", pixel=_R),
    RelionColumn("rlnMicrographPixelSize", pixel=_N, note="converted where there is no rlnImagePixelSize"),
    RelionColumn("rlnMicrographOriginalPixelSize", pixel=_N, note="converted where there is no other pixel size"),
    RelionColumn("rlnPixelSize", pixel=_N),
    RelionColumn("rlnMagnification", "blob/psize_A", pixel=_R, note="RELION 3.0, with rlnDetectorPixelSize"),
    RelionColumn("rlnDetectorPixelSize", "blob/psize_A", note="RELION 3.0"),
    RelionColumn("rlnImageSize", "blob/shape"),
    RelionColumn("rlnImageDimensionality", "blob/shape", note="2; particles of other dimensions are refused"),
    RelionColumn("rlnBeamTiltX", "ctf/tilt_A"),
    RelionColumn("rlnBeamTiltY", "ctf/tilt_A"),
    RelionColumn("rlnBeamTiltClass"),
    RelionColumn("rlnOddZernike", note="no verified formula for CryoSPARC's trefoil and tilt terms"),
    RelionColumn("rlnEvenZernike", note="no verified formula for CryoSPARC's tetrafoil and spherical terms"),
    *(RelionColumn(f"rlnMagMat{i}{j}", "ctf/anisomag") for i in (0, 1) for j in (0, 1)),
    RelionColumn("rlnMtfFileName"),
    RelionColumn("rlnCtfDataAreCtfPremultiplied", note="where it is 1, a .cs is refused, which cannot say it"),
    RelionColumn("rlnCtfDataArePhaseFlipped", note="where it is 1, jobs that learn refuse the images"),
    # CTF of a particle
    RelionColumn("rlnDefocusU", "ctf/df1_A", pixel=_N, defocus=_R),
    RelionColumn("rlnDefocusV", "ctf/df2_A", pixel=_N, defocus=_R),
    RelionColumn("rlnDefocusAngle", "ctf/df_angle_rad", defocus=_R),
    RelionColumn("rlnPhaseShift", "ctf/phase_shift_rad", defocus=_R),
    RelionColumn("rlnCtfBfactor", "ctf/bfactor"),
    RelionColumn("rlnCtfScalefactor", "ctf/scale"),
    RelionColumn("rlnCtfAstigmatism", defocus=_D, note="the difference of rlnDefocusU and rlnDefocusV says the same"),
    RelionColumn("rlnCtfMaxResolution", pixel=_N, defocus=_N),
    RelionColumn("rlnCtfFigureOfMerit", defocus=_N),
    RelionColumn("rlnCtfValidationScore", defocus=_N),
    RelionColumn("rlnCtfPowerSpectrum"),
    RelionColumn("rlnCtfValue", defocus=_N),
    *_carried("rlnChromaticAberration", "rlnEnergyLoss", "rlnConvergenceCone", "rlnLensStability",
              "rlnLongitudinalDisplacement", "rlnTransversalDisplacement",
              note="an envelope of the CTF that RELION does not apply either"),
    RelionColumn("rlnMagnificationCorrection", pixel=_N, note="RELION 1 and 2; not applied"),
    RelionColumn("rlnCtfImage", defocus=_N),
    # where particles come from
    RelionColumn("rlnMicrographName", "location/micrograph_path, location/micrograph_uid",
                 note="the uid is invented from the name unless it came along from a .cs"),
    RelionColumn("rlnCoordinateX", "location/center_x_frac", note="needs the size of the micrograph"),
    RelionColumn("rlnCoordinateY", "location/center_y_frac", note="counted from the other edge: --flip_y keeps it"),
    RelionColumn("rlnCoordinateZ"),
    RelionColumn("rlnMicrographId"),
    *_carried("rlnMicrographNameNoDW", "rlnMicrographMovieName", "rlnMicrographMetadata", "rlnMicrographGainName",
              "rlnMicrographDefectFile", "rlnAreaId", "rlnAreaName"),
    *_carried("rlnMicrographTiltAngle", "rlnMicrographTiltAxisDirection", "rlnMicrographTiltAxisOutOfPlane",
              "rlnTiltIndex", note="of tilted micrographs; no pose is made of it"),
    *_carried("rlnMicrographBinning", "rlnMicrographDoseRate", "rlnMicrographFrameNumber", "rlnMicrographStartFrame",
              "rlnMicrographEndFrame", "rlnMicrographShiftX", "rlnMicrographShiftY", "rlnEERGrouping",
              "rlnEERUpsampling", note="of movies"),
    RelionColumn("rlnAutopickFigureOfMerit"),
    RelionColumn("rlnGroupName"),
    RelionColumn("rlnGroupNumber"),
    RelionColumn("rlnAccumMotionTotal"),
    RelionColumn("rlnAccumMotionEarly"),
    RelionColumn("rlnAccumMotionLate"),
    RelionColumn("rlnMicrographPreExposure"),
    # poses
    *(RelionColumn(label, "alignments3D/pose", pose=_R) for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")),
    *(RelionColumn(f"rlnOrigin{axis}Angst", "alignments3D/shift", pose=_R) for axis in "XY"),
    *(RelionColumn(f"rlnOrigin{axis}", "alignments3D/shift", pose=_R, pixel=_R, note="RELION 3.0") for axis in "XY"),
    *(RelionColumn(f"rlnOriginZ{unit}", pose=_D, note="of subtomograms") for unit in ("", "Angst")),
    *(RelionColumn(f"rlnAngle{angle}Prior", pose=_H, note="centre of local searches") for angle in ("Rot", "Tilt")),
    RelionColumn("rlnAnglePsiPrior", "filament/filament_pose", pose=_H, note="of tubes; centre of local searches"),
    *(RelionColumn(f"rlnOrigin{axis}Prior{unit}", pose=_D, note="centre of local searches")
      for axis in "XYZ" for unit in ("", "Angst")),
    RelionColumn("rlnAnglePsiFlip", pose=_D, note="whether an earlier refinement turned a filament round"),
    RelionColumn("rlnAnglePsiFlipRatio", pose=_H, note="in filaments as it was"),
    RelionColumn("rlnAngleRotFlipRatio", pose=_D),
    RelionColumn("rlnClassNumber", "alignments3D/class"),
    RelionColumn("rlnRandomSubset", "alignments3D/split"),
    RelionColumn("rlnLogLikeliContribution", pose=_D, note="of the old pose"),
    RelionColumn("rlnMaxValueProbDistribution", pose=_D, note="of the old pose"),
    RelionColumn("rlnNrOfSignificantSamples", pose=_D, note="of the old pose"),
    RelionColumn("rlnKullbackLeiblerDivergence", pose=_D, note="of the old pose"),
    RelionColumn("rlnParticleFigureOfMerit"),
    RelionColumn("rlnParticleSelectZScore", pose=_N),
    RelionColumn("rlnPredictedClassScore"),
    # filaments
    RelionColumn("rlnHelicalTubeID", "filament/filament_uid",
                 note="from a .cs the number of the filament on its micrograph; to a .cs made from both names"),
    RelionColumn("rlnHelicalTubePitch"),
    RelionColumn("rlnHelicalTrackLength", "filament/position_A", pixel=_N, note="RELION 3.0"),
    RelionColumn("rlnHelicalTrackLengthAngst", "filament/position_A", pixel=_N,
                 note="from a .cs counted from the tube's start"),
)  # fmt: skip

#: What a slot of 3D alignments holds beside pose, shift, half-set and class: it belongs to the alignment that was made.
_STATISTICS = (
    "error", "error_min", "resid_pow", "slice_pow", "image_pow", "cross_cor", "weight", "pose_ess", "shift_ess",
    "class_posterior", "class_ess",
)  # fmt: skip
_OF_SEVERAL = "of the most probable class, where there is no alignments3D"

CRYOSPARC_FIELDS: tuple[CryosparcField, ...] = (
    CryosparcField("uid", "cdxUid", note="a column of ours"),
    CryosparcField("blob/path", "rlnImageName"),
    CryosparcField("blob/idx", "rlnImageName"),
    CryosparcField("blob/shape", "rlnImageSize"),
    CryosparcField("blob/psize_A", "rlnImagePixelSize"),
    CryosparcField("blob/sign", counterpart=False, note="-1 (dark on light) is named"),
    CryosparcField("blob/import_sig", counterpart=False),
    CryosparcField("ctf/type", counterpart=False),
    CryosparcField("ctf/exp_group_id", "rlnOpticsGroup", note="the number plus 1"),
    CryosparcField("ctf/accel_kv", "rlnVoltage"),
    CryosparcField("ctf/cs_mm", "rlnSphericalAberration"),
    CryosparcField("ctf/amp_contrast", "rlnAmplitudeContrast"),
    CryosparcField("ctf/df1_A", "rlnDefocusU"),
    CryosparcField("ctf/df2_A", "rlnDefocusV"),
    CryosparcField("ctf/df_angle_rad", "rlnDefocusAngle"),
    CryosparcField("ctf/phase_shift_rad", "rlnPhaseShift"),
    CryosparcField("ctf/scale", "rlnCtfScalefactor"),
    CryosparcField("ctf/scale_const", counterpart=False),
    CryosparcField("ctf/bfactor", "rlnCtfBfactor"),
    CryosparcField("ctf/tilt_A", "rlnBeamTiltX, rlnBeamTiltY"),
    CryosparcField("ctf/shift_A", note="RELION has rlnOddZernike, but no formula has been verified; 0 is left out"),
    CryosparcField("ctf/trefoil_A", note="RELION has rlnOddZernike, but no formula has been verified; 0 is left out"),
    CryosparcField("ctf/tetra_A", note="RELION has rlnEvenZernike, but no formula has been verified; 0 is left out"),
    CryosparcField("ctf/anisomag", "rlnMagMat00 to rlnMagMat11"),
    CryosparcField("location/micrograph_path", "rlnMicrographName"),
    CryosparcField("location/micrograph_uid", counterpart=False),
    CryosparcField("location/exp_group_id", "rlnOpticsGroup"),
    CryosparcField("location/micrograph_shape", "rlnCoordinateX, rlnCoordinateY", note="0 (unknown): no coordinates"),
    CryosparcField("location/center_x_frac", "rlnCoordinateX"),
    CryosparcField("location/center_y_frac", "rlnCoordinateY"),
    CryosparcField("location/micrograph_psize_A", note="RELION's rlnMicrographPixelSize belongs to optics groups"),
    CryosparcField("alignments3D/pose", "rlnAngleRot, rlnAngleTilt, rlnAnglePsi", pose=_R),
    CryosparcField("alignments3D/shift", "rlnOriginXAngst, rlnOriginYAngst", pose=_R),
    CryosparcField("alignments3D/psize_A", "rlnOriginXAngst, rlnOriginYAngst", pose=_R),
    CryosparcField("alignments3D/split", "rlnRandomSubset"),
    CryosparcField("alignments3D/class", "rlnClassNumber"),
    CryosparcField("alignments3D/alpha", counterpart=False, note="scale of the image"),
    CryosparcField("alignments3D/alpha_min", counterpart=False),
    *(CryosparcField(f"alignments3D/{name}", counterpart=False, pose=_R, note="neutral beside a new pose")
      for name in _STATISTICS),
    CryosparcField("alignments3D_multi/pose", "rlnAngleRot, rlnAngleTilt, rlnAnglePsi", pose=_N, note=_OF_SEVERAL),
    CryosparcField("alignments3D_multi/shift", "rlnOriginXAngst, rlnOriginYAngst", pose=_N, note=_OF_SEVERAL),
    CryosparcField("alignments3D_multi/class_posterior", "rlnClassNumber", pose=_N),
    CryosparcField("alignments3D_multi/*", counterpart=False, pose=_N),
    CryosparcField("alignments_class_*/pose", "rlnAngleRot, rlnAngleTilt, rlnAnglePsi", pose=_N,
                   note=f"CryoSPARC to 4.4; {_OF_SEVERAL}"),
    CryosparcField("alignments_class_*/shift", "rlnOriginXAngst, rlnOriginYAngst", pose=_N,
                   note=f"CryoSPARC to 4.4; {_OF_SEVERAL}"),
    CryosparcField("alignments_class_*/*", counterpart=False, pose=_N, note="CryoSPARC to 4.4"),
    CryosparcField("alignments2D/class", "rlnClassNumber", note="where there are no 3D classes"),
    CryosparcField("alignments2D/shift", "rlnOriginXAngst, rlnOriginYAngst", note="where there are no 3D poses"),
    CryosparcField("alignments2D/psize_A", "rlnOriginXAngst, rlnOriginYAngst", note="where there are no 3D poses"),
    CryosparcField("alignments2D/pose",
                   note="RELION has rlnAnglePsi, but public converters give it opposite signs"),
    CryosparcField("alignments2D/split", note="RELION's half-sets belong to 3D refinements"),
    CryosparcField("alignments2D/*", counterpart=False),
    CryosparcField("filament/filament_uid", "rlnHelicalTubeID"),
    CryosparcField("filament/position_A", "rlnHelicalTrackLengthAngst"),
    CryosparcField("filament/filament_pose", "rlnAnglePsiPrior",
                   note="the direction of a filament is taken from the positions of its segments where they tell"),
    CryosparcField("filament/*", counterpart=False),
    CryosparcField("sym_expand/src_uid", counterpart=False, note="tells copies apart"),
    CryosparcField("sym_expand/idx", counterpart=False, note="tells copies apart"),
    CryosparcField("sym_expand/*", counterpart=False),
    CryosparcField("components_mode_*/*", counterpart=False, pose=_N, note="latents of the old poses"),
    CryosparcField("motion/*", counterpart=False),
    CryosparcField("pick_stats/*", counterpart=False),
    CryosparcField("*", counterpart=False, note="any other field"),
)  # fmt: skip

_BY_LABEL = {column.label: column for column in RELION_COLUMNS}
_PATTERNS = [
    (re.compile(re.escape(one.name).replace(r"_\*", r"_\d+").replace(r"\*", ".*")), one) for one in CRYOSPARC_FIELDS
]


def relion_column(label: str) -> RelionColumn:
    """Return the entry of a column; one that depends on nothing for a column that RELION does not know."""
    return _BY_LABEL.get(label, RelionColumn(label))


def cryosparc_field(name: str) -> CryosparcField:
    """Return the entry of a field."""
    return next(one for pattern, one in _PATTERNS if pattern.fullmatch(name))


@dataclass(frozen=True)
class PoseColumns:
    """Fate of a file's columns when its poses are written anew.

    Attributes
    ----------
    renewed, dropped, named : tuple of str
    """

    renewed: tuple[str, ...]
    dropped: tuple[str, ...]
    named: tuple[str, ...]


def columns_of_changed_poses(labels: Iterable[str]) -> PoseColumns:
    """Sort the columns of a STAR file by what becomes of them when poses change."""
    labels = tuple(labels)
    in_helices = "rlnHelicalTubeID" in labels
    sorted_by: dict[Treatment, list[str]] = {one: [] for one in Treatment}
    for label in labels:
        treatment = relion_column(label).pose
        if treatment is Treatment.RENEWED_IN_HELICES:
            treatment = Treatment.RENEWED if in_helices else Treatment.DROPPED
        sorted_by[treatment].append(label)
    return PoseColumns(*(tuple(sorted_by[one]) for one in (Treatment.RENEWED, Treatment.DROPPED, Treatment.NAMED)))


def columns_named(labels: Iterable[str], change: str) -> tuple[str, ...]:
    """Return the columns that are kept but were measured with the old values of ``change`` (pose, pixel, defocus)."""
    return tuple(label for label in labels if getattr(relion_column(label), change) is Treatment.NAMED)


def columns_dropped(labels: Iterable[str], change: str) -> tuple[str, ...]:
    """Return the columns that are left out when ``change`` (pixel, defocus) has happened."""
    return tuple(label for label in labels if getattr(relion_column(label), change) is Treatment.DROPPED)
