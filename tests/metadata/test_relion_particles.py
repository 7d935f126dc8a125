from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from tests.metadata.conftest import StarBuilder

Edit = Callable[[StarBuilder], None]


def floats(builder: StarBuilder, *labels: str) -> np.ndarray:
    return np.array([[float(value) for value in builder.columns[label]] for label in labels]).T


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("style", ["3.1", "5.0"])
def test_relion_31_and_later(style: str, reverse: bool, star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder(style, reverse=reverse)
    particles = read_particles(builder.write(tmp_path / "in.star"))
    assert particles.n == len(particles) == builder.n
    assert particles.version == style
    assert particles.image_name.tolist() == builder.columns["rlnImageName"]
    np.testing.assert_array_equal(particles.euler_deg, floats(builder, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))
    np.testing.assert_array_equal(particles.shift_A, -floats(builder, "rlnOriginXAngst", "rlnOriginYAngst"))
    np.testing.assert_array_equal(particles.ctf.defocus_u_A, floats(builder, "rlnDefocusU")[:, 0])
    np.testing.assert_array_equal(particles.ctf.defocus_v_A, floats(builder, "rlnDefocusV")[:, 0])
    np.testing.assert_allclose(np.degrees(particles.ctf.defocus_angle_rad), floats(builder, "rlnDefocusAngle")[:, 0])
    assert particles.half_set.tolist() == [1, 2] * 4
    assert particles.optics_index.tolist() == [0, 1] * 4
    assert particles.pixel_size_A.tolist() == [1.25, 1.3] * 4
    assert [group.box_size for group in particles.optics] == [16, 16]
    assert particles.row_id.tolist() == list(range(8))
    assert particles.stack_index.tolist() == [0, 1, 2, 3] * 2
    assert particles.stack_id.tolist() == [0] * 4 + [1] * 4


def test_relion_30(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder("3.0")
    particles = read_particles(builder.write(tmp_path / "in.star"))
    assert particles.version == "3.0"
    assert len(particles.optics) == 1
    assert particles.optics[0].pixel_size_A == 1.25
    assert particles.optics[0].box_size is None
    np.testing.assert_allclose(particles.shift_A, -1.25 * floats(builder, "rlnOriginX", "rlnOriginY"))


def test_box_of_relion_30_comes_from_the_stack(
    star_builder: type[StarBuilder], write_stack: Callable[..., Path], tmp_path: Path
) -> None:
    write_stack(tmp_path / "Extract/job012/mic0.mrcs", 4, box=24)
    particles = read_particles(star_builder("3.0").write(tmp_path / "in.star"))
    assert particles.project_dir == tmp_path
    assert particles.optics[0].box_size == 24


def test_what_is_not_given_has_relions_default(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder()
    for label in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset"):
        del builder.columns[label]
    particles = read_particles(builder.write(tmp_path / "in.star"))
    assert not particles.ctf.phase_shift_rad.any()
    assert not particles.ctf.b_factor_A2.any()
    assert (particles.ctf.scale == 1).all()
    assert not particles.shift_A.any()
    assert not particles.half_set.any()


def test_phase_shift_b_factor_and_scale(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder()
    builder.columns |= {"rlnPhaseShift": ["90.0"] * 8, "rlnCtfBfactor": ["25.5"] * 8, "rlnCtfScalefactor": ["0.9"] * 8}
    ctf = read_particles(builder.write(tmp_path / "in.star")).ctf
    np.testing.assert_allclose(ctf.phase_shift_rad, np.pi / 2)
    assert (ctf.b_factor_A2 == 25.5).all()
    assert (ctf.scale == 0.9).all()


def test_files_without_poses(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder()
    for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"):
        del builder.columns[label]
    path = builder.write(tmp_path / "in.star")
    with pytest.raises(InputError, match="no column _rlnAngleRot, _rlnAngleTilt, _rlnAnglePsi; particles with orient"):
        read_particles(path)
    particles = read_particles(path, require_poses=False)
    assert not particles.has_poses
    assert np.isnan(particles.euler_deg).all()
    with pytest.raises(InputError, match="has no orientations"):
        _ = particles.rotation


def test_optics_groups_are_found_by_number(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder()
    builder.optics["rlnOpticsGroup"] = ["7", "3"]
    builder.columns["rlnOpticsGroup"] = ["3", "7", "7", "3"] * 2
    particles = read_particles(builder.write(tmp_path / "in.star"))
    assert particles.optics_index.tolist() == [1, 0, 0, 1] * 2
    assert [particles.optics[i].number for i in particles.optics_index] == [3, 7, 7, 3] * 2


def test_symmetry_expanded_sets_keep_their_rows_apart(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    builder = star_builder()
    builder.columns["rlnImageName"] = [name for name in builder.columns["rlnImageName"][:4] for _ in range(2)]
    builder.columns["rlnRandomSubset"] = ["1", "1", "2", "2"] * 2
    particles = read_particles(builder.write(tmp_path / "in.star"))
    assert len(np.unique(particles.uid)) == 8
    assert len(np.unique(particles.image_hash)) == 4


def put(label: str, row: int, value: str) -> Edit:
    def edit(builder: StarBuilder) -> None:
        builder.columns[label] = [*builder.columns[label]]
        builder.columns[label][row - 1] = value

    return edit


def drop(label: str) -> Edit:
    def edit(builder: StarBuilder) -> None:
        del builder.columns[label]

    return edit


def rename(label: str, new: str) -> Edit:
    def edit(builder: StarBuilder) -> None:
        builder.columns = {new if name == label else name: values for name, values in builder.columns.items()}

    return edit


def every(*edits: Edit) -> Edit:
    def edit(builder: StarBuilder) -> None:
        for one in edits:
            one(builder)

    return edit


def no_rows(builder: StarBuilder) -> None:
    builder.columns = {label: [] for label in builder.columns}


def tail(text: str) -> Edit:
    def edit(builder: StarBuilder) -> None:
        builder.tail = text

    return edit


IN_PIXELS = every(rename("rlnOriginXAngst", "rlnOriginX"), rename("rlnOriginYAngst", "rlnOriginY"))


@pytest.mark.parametrize(
    ("style", "edit", "complaint"),
    [
        ("3.1", put("rlnAngleRot", 3, "nan"), "row 3 * image 000003@Extract/job012/mic0.mrcs: _rlnAngleRot is nan"),
        ("3.1", put("rlnAngleTilt", 1, "inf"), "row 1 * _rlnAngleTilt is inf"),
        ("3.1", put("rlnAnglePsi", 8, "-nan"), "row 8 * _rlnAnglePsi is nan"),
        ("3.1", put("rlnAnglePsi", 8, "abc"), "row 8 * _rlnAnglePsi is 'abc', but a number"),
        ("3.1", put("rlnAnglePsi", 8, "<NA>"), "row 8 * _rlnAnglePsi is '<NA>', but a number"),
        ("3.1", put("rlnOriginXAngst", 2, "nan"), "row 2 * _rlnOriginXAngst is nan"),
        ("3.1", put("rlnDefocusU", 2, "nan"), "row 2 * _rlnDefocusU is nan"),
        ("3.1", put("rlnDefocusV", 2, "inf"), "row 2 * _rlnDefocusV is inf"),
        ("3.1", put("rlnDefocusAngle", 2, "nan"), "row 2 * _rlnDefocusAngle is nan"),
        ("3.1", drop("rlnAngleTilt"), "has no column _rlnAngleTilt; particles with orientations"),
        ("3.1", drop("rlnDefocusU"), "no column _rlnDefocusU, which the CTF needs"),
        ("3.1", drop("rlnDefocusV"), "no column _rlnDefocusV, which the CTF needs"),
        ("3.1", drop("rlnDefocusAngle"), "no column _rlnDefocusAngle, which the CTF needs"),
        ("3.1", drop("rlnImageName"), "has no column _rlnImageName"),
        ("3.1", drop("rlnOpticsGroup"), "has no column _rlnOpticsGroup"),
        ("3.1", drop("rlnOriginYAngst"), "the column _rlnOriginXAngst but not its partner"),
        ("3.1", IN_PIXELS, "origins in pixels (_rlnOriginX) although it has an optics table"),
        (
            "3.1",
            put("rlnOpticsGroup", 5, "9"),
            "row 5 * the optics group 9 is not defined in data_optics, which has 1, 2",
        ),
        ("3.1", put("rlnOpticsGroup", 5, "x"), "row 5 * _rlnOpticsGroup is 'x'"),
        ("3.1", put("rlnRandomSubset", 6, "0"), "row 6 * _rlnRandomSubset is 0 in 1 rows and not in the others"),
        ("3.1", put("rlnRandomSubset", 6, "3"), "row 6 * _rlnRandomSubset is 3, but 1 or 2"),
        ("3.1", put("rlnImageName", 4, "0@a.mrcs"), "row 4 * has the index 0"),
        ("3.1", put("rlnImageName", 4, "a.mrcs"), "row 4 * has no '@'"),
        ("3.1", no_rows, "data_particles is empty"),
        ("3.1", tail("\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n"), "holds tomography particles"),
        ("3.1", rename("rlnCoordinateX", "rlnTomoParticleName"), "holds tomography particles"),
        ("3.0", put("rlnOriginX", 2, "nan"), "row 2 * _rlnOriginX is nan"),
        ("3.0", put("rlnMagnification", 2, "0"), "row 2 * the pixel size (Å) is nan"),
        ("3.0", put("rlnDetectorPixelSize", 2, "-1"), "row 2 * the pixel size (Å) is"),
        ("3.0", drop("rlnMagnification"), "neither a data_optics table nor a column _rlnMagnification"),
        ("3.0", drop("rlnVoltage"), "has no column _rlnVoltage, which the CTF needs"),
        ("3.0", drop("rlnAmplitudeContrast"), "has no column _rlnAmplitudeContrast, which the CTF needs; add it"),
        ("3.0", drop("rlnImageName"), "has no table with a column _rlnImageName (found data_)"),
        ("3.0", no_rows, "data_ is empty"),
        ("3.0", tail("\ndata_b\nloop_\n_rlnImageName\n1@a.mrcs\n"), "2 tables with a column _rlnImageName"),
    ],
)
def test_malformed_particles_are_refused_in_one_sentence(
    style: str, edit: Edit, complaint: str, star_builder: type[StarBuilder], tmp_path: Path
) -> None:
    builder = star_builder(style)
    edit(builder)
    path = builder.write(tmp_path / "bad.star")
    with pytest.raises(InputError) as caught:
        read_particles(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    rest = message
    for part in complaint.split(" * "):
        assert part in rest, message
        rest = rest[rest.index(part) :]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("data_optics\n\nloop_\n_rlnOpticsGroup\n1\n\ndata_micrographs\n\nloop_\n_rlnMicrographName\na.mrc\n",
         "has no data_particles table, only data_optics, data_micrographs"),
        ("data_particles\n\n_rlnImageName 1@a.mrcs\n", "is a list, but a loop_ table"),
    ],
)  # fmt: skip
def test_files_without_particles(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "bad.star").write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_particles(tmp_path / "bad.star")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("a.cs", "does not exist"),
        ("a.mrcs", "is no particles file"),
        ("a.pkl", "is no particles file"),
        ("none.star", "does not exist"),
    ],
)
def test_other_files(name: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint):
        read_particles(tmp_path / name)


def test_binary_file_with_a_star_suffix(write_stack: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a binary file"):
        read_particles(write_stack(tmp_path / "a.star", 2))


def test_files_that_name_the_particles_say_so(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    optimiser = tmp_path / "run_optimiser.star"
    optimiser.write_text("data_optimiser_general\n\n_rlnExperimentalDataStarFile Refine3D/job012/run_data.star\n")
    with pytest.raises(InputError, match=r"give the particles that it names, Refine3D/job012/run_data\.star"):
        read_particles(optimiser)
    star_builder().write(tmp_path / "run_data.star")
    with pytest.raises(InputError, match=r"has run_data\.star: give one of these files"):
        read_particles(tmp_path)


def test_of_two_pairs_of_origins_that_of_the_version_counts(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    """relion_reconstruct takes pixels without an optics table, and Å with one (test_relion_binaries.py)."""
    old, new = star_builder(style="3.0"), star_builder(style="3.1")
    old.columns |= {"rlnOriginXAngst": ["50"] * 8, "rlnOriginYAngst": ["-50"] * 8}
    new.columns |= {"rlnOriginX": ["50"] * 8, "rlnOriginY": ["-50"] * 8}
    particles = read_particles(old.write(tmp_path / "old.star"))
    np.testing.assert_allclose(particles.shift_A, -1.25 * floats(old, "rlnOriginX", "rlnOriginY"), atol=1e-9)
    np.testing.assert_allclose(
        read_particles(new.write(tmp_path / "new.star")).shift_A, -floats(new, "rlnOriginXAngst", "rlnOriginYAngst")
    )
    for name in ("old", "new"):  # moved, both pairs say the same
        given = read_particles(tmp_path / f"{name}.star")
        write_particles_star(given.with_poses(given.rotation, given.shift_A + 2.5), tmp_path / "moved.star")
        table = read_particles(tmp_path / "moved.star")
        in_A, in_px = (
            np.array([table.table.floats(f"rlnOrigin{axis}{unit}") for axis in "XY"]).T for unit in ("Angst", "")
        )
        np.testing.assert_allclose(in_A, -given.shift_A - 2.5, atol=2e-6)
        np.testing.assert_allclose(in_px * given.pixel_size_A[:, None], in_A, atol=2e-6)
