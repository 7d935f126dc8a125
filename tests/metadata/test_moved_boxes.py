"""Particles that were extracted anew around other centres: where they lie on the micrograph does not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.reference import restore
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import particles_record, save

PIXEL_A = np.array([1.25, 1.3])


def positioned(folder: Path) -> tuple[StarBuilder, ParticleSet]:
    """A file with positions, of two optics groups of different pixel sizes."""
    rng = np.random.default_rng(3)
    builder = StarBuilder()
    for axis in "XY":
        builder.columns[f"rlnCoordinate{axis}"] = [f"{one:.0f}" for one in rng.uniform(300, 3000, 8)]
    return builder, read_particles(builder.write(folder / "former.star"))


def place_px(columns: dict[str, list[str]], group: list[str]) -> np.ndarray:
    """(N, 2) where particles lie: RELION's coordinate minus its origin in pixels of the micrograph."""
    pixel = PIXEL_A[np.array(group, int) - 1]
    return np.stack(
        [np.array(columns[f"rlnCoordinate{axis}"], float) - np.array(columns[f"rlnOrigin{axis}Angst"], float) / pixel
         for axis in "XY"], axis=1,
    )  # fmt: skip


def extracted_anew(builder: StarBuilder, move_px: np.ndarray) -> StarBuilder:
    """The same particles in other boxes, as an extraction that recentres writes them."""
    pixel = PIXEL_A[np.array(builder.columns["rlnOpticsGroup"], int) - 1]
    columns = dict(builder.columns)
    columns["rlnImageName"] = [f"{8 - i}@Extract/job099/again.mrcs" for i in range(8)]
    for i, axis in enumerate("XY"):
        position, origin = f"rlnCoordinate{axis}", f"rlnOrigin{axis}Angst"
        columns[position] = [f"{float(one) + by:.6f}" for one, by in zip(columns[position], move_px[:, i], strict=True)]
        columns[origin] = [
            f"{float(one) + by * px:.6f}" for one, by, px in zip(columns[origin], move_px[:, i], pixel, strict=True)
        ]
    moved = StarBuilder()
    moved.columns = columns
    return moved


def test_origins_are_counted_from_the_former_centres(tmp_path: Path) -> None:
    builder, former = positioned(tmp_path)
    move_px = np.random.default_rng(4).uniform(-1.4, 1.4, (8, 2))
    moved = extracted_anew(builder, move_px)
    group = builder.columns["rlnOpticsGroup"]
    np.testing.assert_allclose(place_px(moved.columns, group), place_px(builder.columns, group), atol=1e-5)
    moved.columns["rlnAngleRot"] = [f"{float(one) + 5:.6f}" for one in builder.columns["rlnAngleRot"]]
    restored = restore(read_particles(moved.write(tmp_path / "moved.star")), former)
    assert restored.joined_by == "micrograph and position"
    assert "origins are counted from the centres" in " ".join(restored.notes)
    shown = np.abs(move_px).max(axis=1) > 0.5
    assert shown.sum() > 5
    # Nothing but the angles was refined, so that the old origins are the right ones.
    np.testing.assert_allclose(restored.particles.shift_A[shown], former.shift_A[shown], atol=1e-4)
    np.testing.assert_allclose(restored.particles.euler_deg[:, 0], former.euler_deg[:, 0] + 5, atol=1e-5)


def test_boxes_that_moved_far_are_found_by_where_the_particles_lie(tmp_path: Path) -> None:
    """Images of the same names, in another order: as RELION extracts a selection anew with recentring."""
    builder, _ = positioned(tmp_path)
    builder.columns["rlnImageName"] = [f"{i + 1}@Extract/job012/a.mrcs" for i in range(8)]
    builder.optics["rlnImageSize"] = ["64"] * 2
    former = read_particles(builder.write(tmp_path / "former.star"))
    move_px = np.random.default_rng(4).uniform(5, 40, (8, 2))
    moved = extracted_anew(builder, move_px)
    moved.optics["rlnImageSize"] = ["64"] * 2
    moved.columns["rlnImageName"] = [f"{8 - i}@Extract/job099/a.mrcs" for i in range(8)]
    # A refinement of the new images has moved them a little.
    moved.columns["rlnOriginYAngst"] = [f"{float(one) + 0.8:.6f}" for one in moved.columns["rlnOriginYAngst"]]
    restored = restore(read_particles(moved.write(tmp_path / "moved.star")), former)
    assert restored.joined_by == "micrograph and place of the particle"
    assert restored.particles.row_id.tolist() == list(range(8))
    np.testing.assert_allclose(restored.particles.shift_A, former.shift_A - [0, 0.8], atol=1e-4)
    assert "coordinates minus origins" in restored.notes[0]


def test_other_particles_of_the_same_names_are_still_refused(tmp_path: Path) -> None:
    builder, former = positioned(tmp_path)
    others = StarBuilder()
    others.columns = dict(builder.columns)
    others.columns["rlnImageName"] = [one.replace("job012", "job099") for one in builder.columns["rlnImageName"]]
    others.columns["rlnCoordinateX"] = [f"{float(one) + 60:.1f}" for one in builder.columns["rlnCoordinateX"]]
    with pytest.raises(InputError, match="their positions say that they are different particles"):
        restore(read_particles(others.write(tmp_path / "others.star")), former)


def test_rounded_positions_are_no_moves(tmp_path: Path) -> None:
    builder, former = positioned(tmp_path)
    moved = extracted_anew(builder, np.full((8, 2), 0.4))
    restored = restore(read_particles(moved.write(tmp_path / "moved.star")), former)
    assert "extracted anew" not in " ".join(restored.notes)


def test_images_of_one_name_are_not_moved(tmp_path: Path) -> None:
    builder, former = positioned(tmp_path)
    columns = dict(builder.columns)
    columns["rlnCoordinateX"] = [f"{float(one) + 1.5}" for one in columns["rlnCoordinateX"]]
    again = StarBuilder()
    again.columns = columns
    restored = restore(read_particles(again.write(tmp_path / "again.star")), former)
    np.testing.assert_allclose(restored.particles.shift_A, former.shift_A)


@pytest.mark.parametrize("pixels", [1.0, 40.0])
def test_particles_of_cryosparc_that_were_recentred_are_said(pixels: float, tmp_path: Path) -> None:
    """A uid stays with a particle that CryoSPARC extracts anew around its aligned centre."""
    record = particles_record()
    former = read_particles(save(tmp_path / "former.cs", record))
    record["blob/path"] = b"J9/extract/again.mrc"
    record["blob/idx"] = np.arange(len(record))
    record["location/center_x_frac"] += np.float32(pixels / 4000)
    record["alignments3D/shift"] = 0
    restored = restore(read_particles(save(tmp_path / "moved.cs", record)), former)
    assert restored.joined_by == "uid"
    assert f"{pixels:.1f} px away: their shifts belong to the new images" in " ".join(restored.notes)


def test_a_refinement_of_binned_images_keeps_the_boxes_of_the_originals(tmp_path: Path) -> None:
    record = particles_record()
    former = read_particles(save(tmp_path / "former.cs", record))
    binned = record.copy()
    binned["blob/path"] = b"J9/downsample/half.mrc"
    binned["blob/idx"] = np.arange(len(record))
    binned["blob/shape"], binned["blob/psize_A"] = 32, 2.2
    binned["alignments3D/psize_A"], binned["alignments3D/shift"] = 2.2, record["alignments3D/shift"] + 1
    restored = restore(read_particles(save(tmp_path / "binned.cs", binned)), former)
    assert restored.updated == ("poses",)
    assert np.array_equal(restored.particles.pixel_size_A, former.pixel_size_A)
    np.testing.assert_allclose(restored.particles.shift_A, former.shift_A - 2.2, atol=1e-4)
    assert "boxes and pixel sizes stay" in " ".join(restored.notes)


def test_binned_images_in_relion_keep_the_boxes_of_the_originals(tmp_path: Path) -> None:
    builder = StarBuilder(box=64)
    former = read_particles(builder.write(tmp_path / "former.star"))
    binned = StarBuilder(box=32)
    binned.optics["rlnImagePixelSize"] = ["2.500000", "2.600000"]
    binned.columns["rlnAngleRot"] = ["1.0"] * 8
    restored = restore(read_particles(binned.write(tmp_path / "binned.star")), former)
    assert restored.updated == ("poses",)
    assert [group.pixel_size_A for group in restored.particles.optics] == [1.25, 1.3]


def test_a_pixel_size_that_was_calibrated_is_still_taken(tmp_path: Path) -> None:
    former = read_particles(StarBuilder().write(tmp_path / "former.star"))
    calibrated = StarBuilder()
    calibrated.optics["rlnImagePixelSize"] = ["1.244000", "1.300000"]
    restored = restore(read_particles(calibrated.write(tmp_path / "new.star")), former)
    assert restored.updated == ("pixel size",)
    assert [group.pixel_size_A for group in restored.particles.optics] == [1.244, 1.3]


def made_from(builder: StarBuilder, shift_px: np.ndarray) -> StarBuilder:
    """Images that relion_particle_subtract made, positions and all: the origins alone tell what it did."""
    other = StarBuilder(n=builder.n)
    other.columns = dict(builder.columns)
    other.columns["rlnImageOriginalName"] = builder.columns["rlnImageName"]
    other.columns["rlnImageName"] = [f"{i + 1}@Subtract/job005/subtracted.mrcs" for i in range(builder.n)]
    pixel = PIXEL_A[np.array(builder.columns["rlnOpticsGroup"], int) - 1]
    for i, axis in enumerate("XY"):
        other.columns[f"rlnOrigin{axis}Angst"] = [
            f"{-px * one:.6f}" for px, one in zip(pixel, shift_px[:, i], strict=True)
        ]
    return other


@pytest.mark.parametrize(("what", "kept"), [("recentred", True), ("refined again", False), ("model moved", False)])
def test_origins_of_recentred_subtracted_images_are_not_written_beside_the_originals(
    tmp_path: Path, what: str, kept: bool
) -> None:
    rng = np.random.default_rng(6)
    builder = StarBuilder(n=40)
    pixel = PIXEL_A[np.array(builder.columns["rlnOpticsGroup"], int) - 1]
    shift_px = rng.uniform(-6, 6, (40, 2))
    for i, axis in enumerate("XY"):
        builder.columns[f"rlnOrigin{axis}Angst"] = [
            f"{-px * one:.6f}" for px, one in zip(pixel, shift_px[:, i], strict=True)
        ]
    former = read_particles(builder.write(tmp_path / "run_data.star"))
    seen_px = former.rotation[:, :2] @ [9.0, -4.0, 7.0]
    new_px = {
        "recentred": seen_px + shift_px - np.round(seen_px + shift_px),  # RELION moves by whole pixels
        "refined again": shift_px + rng.normal(0, 0.4, (40, 2)),
        "model moved": shift_px + seen_px,
    }[what]
    restored = restore(read_particles(made_from(builder, new_px).write(tmp_path / "subtracted.star")), former)
    assert ("poses" in restored.updated) is not kept
    expected = shift_px if kept else new_px
    np.testing.assert_allclose(restored.particles.shift_A, expected * pixel[:, None], atol=1e-4)
    assert any("were recentred" in note and "poses of the latter are kept" in note for note in restored.notes) is kept
