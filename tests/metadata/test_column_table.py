"""Columns that belong to a pose, a defocus or a pixel size: renewed, dropped or named by every writer."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from cryodrgn_ext.metadata.column_table import (
    CRYOSPARC_FIELDS,
    RELION_COLUMNS,
    Treatment,
    columns_of_changed_poses,
    cryosparc_field,
    relion_column,
)
from cryodrgn_ext.metadata.cs import write_cs
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.reference import restore
from cryodrgn_ext.metadata.star import write_star
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from cryodrgn_ext.metadata.to_relion import star_from_cs
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import particles_record, save

#: Labels of RELION that stand in other tables than those of particles and optics: models, optimisers, samplings, maps,
#: jobs, pipelines, schedules, movies, multi-body refinements. In a particles table they are kept as any unknown column.
OF_OTHER_TABLES = re.compile(
    "rln(Accuracy|Adaptive|AmplitudeCorrelation|AngstromResolution|AutoLocal|AvailableMemory|AveragePmax|BestResolution|"
    "Bfactor|Body|Changes|ClassDistribution|ClassPrior|CoarseImage|Corrected|CorrelationFit|Current|DataDimensionality|"
    "Diff|Do[A-Z]|Estimated|Experimental|ExtRecons|Final|Fitted|Fix|Fourier|GoldStandard|GroupNr|GroupScale|Has|Healpix|"
    "Helical(Central|Keep|Mask|Offset|Rise|Sigma|Symmetry|Twist)|HighresLimit|Ignore|Increment|Is3D|IsHelix|Job|Join|"
    "LocalSymmetry|LogAmplitudes|LogLikelihood$|LowresLimit|MagnificationSearch|MaskName|Matrix|MaxNumber|"
    "MaximumCoarse|MinRadius|Model|Molecular|Motion|MtfValue|NormCorrectionAverage|Nr(Bodies|Classes|Groups|Helical)|"
    "NumberOf|Offset|OpticsStarFile|Orient(Sampling|ationDistribution|ationalPrior)|Original(Image|Size)|Output|Overall|"
    "Padding|Particle(Box|Diameter)|PerFrame|PipeLine|PsiStep|RadiusMask|Random(Seed|iseFrom)|Reference|RefsAre|"
    "Resolution|SGD|SamplingPerturb|Schedule|Sgd|Sigma|SignalToNoise|SmallestChanges|SolventMask|Spectral|Ssnr|"
    "StarFileMovie|SymmetryGroup|Tau|TiltAngleLimit|UnfilteredMap|UseTooCoarse|WidthMask)"
)

# Columns of run_data.star after Refine3D, after a helical Refine3D, and of sub-particles with priors (isecc), in the
# order in which RELION 3.0, 3.1 and 5 write them.
HEADERS: dict[str, list[str]] = {
    "3.0": ["rlnGroupNumber", "rlnNormCorrection", "rlnLogLikeliContribution", "rlnMaxValueProbDistribution",
            "rlnNrOfSignificantSamples", "rlnOriginXPrior", "rlnOriginYPrior", "rlnAngleRotPrior", "rlnAngleTiltPrior",
            "rlnAnglePsiPrior"],
    "3.1": ["rlnNormCorrection", "rlnLogLikeliContribution", "rlnMaxValueProbDistribution",
            "rlnNrOfSignificantSamples", "rlnGroupNumber", "rlnOriginXPriorAngst", "rlnOriginYPriorAngst",
            "rlnAngleTiltPrior", "rlnAnglePsiPrior", "rlnAngleRotPrior"],
    "5.0": ["rlnAutopickFigureOfMerit", "rlnHelicalTubeID", "rlnHelicalTrackLengthAngst", "rlnAngleTiltPrior",
            "rlnAnglePsiPrior", "rlnAnglePsiFlipRatio", "rlnAngleRotFlipRatio", "rlnAnglePsiFlip",
            "rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples",
            "rlnOriginXPriorAngst", "rlnOriginYPriorAngst", "rlnAngleRotPrior"],
}  # fmt: skip


def refined(style: str, path: Path) -> ParticleSet:
    builder = StarBuilder(style)
    for i, label in enumerate(HEADERS[style]):
        builder.columns[label] = [f"{10 * i + row}.5" if "ID" not in label else "1" for row in range(builder.n)]
    return read_particles(builder.write(path))


def turned(particles: ParticleSet) -> ParticleSet:
    return particles.with_poses(Rotation.random(particles.n, 1).as_matrix(), particles.shift_A + 3.0)


@pytest.mark.parametrize("style", ["3.0", "3.1"])
def test_what_describes_the_old_pose_is_left_out(style: str, tmp_path: Path) -> None:
    particles = refined(style, tmp_path / "a.star")
    write_particles_star(turned(particles), tmp_path / "b.star")
    before, after = (starfile.read(tmp_path / f"{name}.star", always_dict=True) for name in "ab")
    before, after = (one[particles.table.name or ""] for one in (before, after))
    gone = set(before.columns) - set(after.columns)
    assert gone == {label for label in HEADERS[style] if "Prior" in label} | {
        "rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples"}  # fmt: skip
    kept = [label for label in after.columns if not label.startswith(("rlnAngle", "rlnOrigin"))]
    assert before[kept].equals(after[kept])


def test_priors_of_filaments_become_the_new_poses(tmp_path: Path) -> None:
    particles = refined("5.0", tmp_path / "a.star")
    write_particles_star(turned(particles), tmp_path / "b.star")
    after = starfile.read(tmp_path / "b.star")["particles"]
    for angle in ("Rot", "Tilt", "Psi"):
        assert after[f"rlnAngle{angle}Prior"].equals(after[f"rlnAngle{angle}"].rename(f"rlnAngle{angle}Prior"))
    assert after["rlnAnglePsiFlipRatio"].tolist() == particles.table.floats("rlnAnglePsiFlipRatio").tolist()
    assert not {"rlnOriginXPriorAngst", "rlnAnglePsiFlip", "rlnMaxValueProbDistribution"} & set(after.columns)
    assert {"rlnHelicalTubeID", "rlnHelicalTrackLengthAngst"} <= set(after.columns)


def test_a_subset_keeps_everything(tmp_path: Path) -> None:
    particles = refined("3.1", tmp_path / "a.star")
    write_particles_star(particles.subset([3, 1]), tmp_path / "b.star")
    assert set(HEADERS["3.1"]) <= set(starfile.read(tmp_path / "b.star")["particles"].columns)
    write_particles_star(turned(particles), tmp_path / "c.star", keep_original_poses=True)
    assert (tmp_path / "c.star").read_bytes() == (tmp_path / "a.star").read_bytes()


def test_poses_of_cryosparc_leave_the_references_priors_out(tmp_path: Path) -> None:
    reference = refined("3.1", tmp_path / "a.star")
    table = cs_from_star(reference).table
    table.columns["alignments3D/pose"][:] = [[0.1 * i, 0.2, -0.3] for i in range(8)]
    write_cs(tmp_path / "b.cs", table)
    restored = restore(read_particles(tmp_path / "b.cs"), reference)
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    assert not [label for label in starfile.read(tmp_path / "c.star")["particles"].columns if "Prior" in label]


def test_defocus_of_cryosparc_and_what_was_measured_with_the_old_one(tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.columns |= {label: [f"{i}.25" for i in range(8)] for label in
                        ("rlnCtfAstigmatism", "rlnCtfFigureOfMerit", "rlnCtfMaxResolution")}  # fmt: skip
    reference = read_particles(builder.write(tmp_path / "a.star"))
    table = cs_from_star(reference).table
    table.columns["ctf/df1_A"][2] += 300
    write_cs(tmp_path / "b.cs", table)
    restored = restore(read_particles(tmp_path / "b.cs"), reference)
    assert restored.dropped == ("rlnCtfAstigmatism",)
    assert restored.named == ("rlnCtfFigureOfMerit", "rlnCtfMaxResolution")


def test_statistics_of_an_alignment_stay_with_their_pose(tmp_path: Path) -> None:
    record = particles_record()
    particles = read_particles(save(tmp_path / "a.cs", record))
    rotation = particles.rotation.copy()
    rotation[5] = rotation[5].T
    write_particles_cs(particles.with_poses(rotation, particles.shift_A), tmp_path / "b.cs")
    back = np.load(tmp_path / "b.cs", allow_pickle=False)
    same = np.arange(40) != 5
    assert np.array_equal(back["alignments3D/error"][same], record["alignments3D/error"][same])
    assert back["alignments3D/error"][5] == 0
    assert back["alignments3D/class_posterior"][5] == 1
    assert np.array_equal(back["alignments3D/alpha"], record["alignments3D/alpha"])


def test_statistics_that_went_through_relion_stay_with_their_pose(tmp_path: Path) -> None:
    record = particles_record()
    write_star(tmp_path / "a.star", star_from_cs(read_particles(save(tmp_path / "a.cs", record))).star)
    star = read_particles(tmp_path / "a.star")
    rotation = star.rotation.copy()
    rotation[7] = rotation[7].T  # RELION has refined one particle
    write_particles_star(star.with_poses(rotation, star.shift_A), tmp_path / "b.star")
    write_particles_cs(read_particles(tmp_path / "b.star"), tmp_path / "b.cs")
    back = np.load(tmp_path / "b.cs", allow_pickle=False)
    same = np.arange(40) != 7
    np.testing.assert_allclose(back["alignments3D/error"][same], record["alignments3D/error"][same])
    assert back["alignments3D/error"][7] == 0


def test_new_poses_of_a_cs_carry_no_old_statistics_into_a_star_file(tmp_path: Path) -> None:
    particles = read_particles(save(tmp_path / "a.cs", particles_record()))
    labels = star_from_cs(turned(particles)).star.blocks["particles"].columns
    assert not [label for label in labels if "alignments3D.error" in label or "class_posterior" in label]
    assert [label for label in labels if "alignments3D.alpha" in label]


def relion_labels() -> dict[str, str]:
    """Every label that the installed RELION knows, with its description."""
    done = subprocess.run(["relion_refine", "--print_metadata_labels"], capture_output=True, text=True, check=False)
    lines = [line.split(":", 1) for line in done.stdout.splitlines() if line.strip().startswith("rln")]
    return {name.split()[0]: text for name, text in lines}


@pytest.mark.relion
def test_every_column_of_relion_that_speaks_of_a_prior_or_an_origin_is_in_the_table() -> None:
    known, ours = relion_labels(), {column.label for column in RELION_COLUMNS}
    assert len(known) > 300
    of_models = ("rlnClass", "rlnHelicalKeep", "rlnSigmaPrior", "rlnOrientationalPriorMode", "rlnBody", "rlnSampling")
    for label, text in known.items():
        speaks = "Center of the prior" in text or "origin of rotation" in text or "Flip ratio" in text
        if speaks and not label.startswith(of_models):
            assert label in ours, label
            assert relion_column(label).pose is not Treatment.KEPT, label
    # Except for what RELION 4 and 5 added, it knows what the table lists.
    assert ours - set(known) <= {"rlnPredictedClassScore", "rlnTiltIndex"}


def test_the_table_has_every_entry_once() -> None:
    for names in ([one.label for one in RELION_COLUMNS], [one.name for one in CRYOSPARC_FIELDS]):
        assert len(set(names)) == len(names)
    assert cryosparc_field("alignments_class_12/pose").name == "alignments_class_*/pose"
    assert cryosparc_field("alignments_class_12/cross_cor").name == "alignments_class_*/*"
    assert cryosparc_field("something/else").name == "*"


def test_a_column_that_nobody_knows_is_kept() -> None:
    assert columns_of_changed_poses(["ucsfUid", "wrpSomething", "rlnAngleRot"]).renewed == ("rlnAngleRot",)


ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_columns_is_that_of_the_table() -> None:
    page = runpy.run_path(str(ROOT / "docs/make_columns_page.py"))["page"]()
    assert (ROOT / "docs/columns.md").read_text("utf-8") == page, "run: python docs/make_columns_page.py"


def test_what_the_table_says_of_a_cs_is_what_conversion_does(tmp_path: Path) -> None:
    """A file with every column of RELION: converted are those that the table says, the others are listed."""
    builder = StarBuilder()
    builder.optics |= {"rlnOpticsGroupName": ["a", "b"]}
    of_optics = ("rlnMagMat", "rlnBeamTiltX", "rlnBeamTiltY", "rlnMtf", "rlnCtfData", "rlnOddZ", "rlnEvenZ",
                 "rlnMicrographOriginal", "rlnMicrographPixel")  # fmt: skip
    vectors = ("rlnOddZernike", "rlnEvenZernike")
    for column in RELION_COLUMNS:
        label = column.label
        if label in builder.columns or label in builder.optics:
            continue
        if label in ("rlnMagnification", "rlnDetectorPixelSize", "rlnOriginX", "rlnOriginY"):
            continue  # RELION 3.0, without an optics table
        if label == "rlnCtfDataAreCtfPremultiplied":
            continue  # 1 is refused, and 0 says no more than nothing
        value = "[0.1,0.2]" if label in vectors else "1"
        if label.startswith("rlnHelicalTrackLength"):
            value = "0"  # tracks that begin elsewhere come back as from 0, and are listed
        if label.startswith(of_optics):
            builder.optics[label] = [value] * 2 if not label.startswith("rlnMagMat") else [f"1.0{label[-1]}", "1"]
        else:
            builder.columns[label] = [value] * 8
    builder.optics["rlnMagMat01"] = builder.optics["rlnMagMat10"] = ["0", "0"]
    lost = set(cs_from_star(read_particles(builder.write(tmp_path / "a.star"))).lost)
    present = (*builder.columns, *builder.optics)
    expected = {one.label for one in RELION_COLUMNS if not one.field and one.label in present}
    # Positions need the micrographs, which are not there.
    assert lost - {"rlnSomethingUnknown"} == expected | {"rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"}


def test_what_the_table_says_of_a_star_file_is_what_conversion_does(tmp_path: Path) -> None:
    record = particles_record()
    labels = star_from_cs(read_particles(save(tmp_path / "a.cs", record))).star
    present = {*labels.blocks["particles"].columns, *labels.blocks["optics"].columns}
    for field in record.dtype.names or ():
        for target in (one.strip() for one in cryosparc_field(field).column.split(",") if one):
            assert target.split(" ")[0] in present, field


@pytest.mark.relion
def test_every_label_that_relion_knows_is_decided() -> None:
    """RELION prints its labels itself; each stands in our table, or belongs to other files than those of particles."""
    labels = relion_labels()
    assert len(labels) > 400
    ours = {column.label for column in RELION_COLUMNS}
    assert [label for label in labels if label not in ours and not OF_OTHER_TABLES.match(label)] == []
    assert [label for label in ours if OF_OTHER_TABLES.match(label)] == []
    assert len(ours) == len(RELION_COLUMNS)
