"""Changes of a Global CTF refinement go back to the reference's optics; starfile and numpy are the judges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile

from cryodrgn_ext.metadata.cs import write_cs
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.reference import Restored, restore
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import Record, particles_record, save


def through_cryosparc(reference: Path, tmp_path: Path, changes: dict[str, Any]) -> Restored:
    """Convert to .cs, change fields as CryoSPARC would, and restore."""
    table = cs_from_star(read_particles(reference, tmp_path)).table
    for field, value in changes.items():
        table.columns[field][:] = value
    write_cs(tmp_path / "b.cs", table)
    return restore(read_particles(tmp_path / "b.cs"), read_particles(reference))


@pytest.mark.parametrize(
    ("changes", "said", "columns"),
    [
        ({"ctf/tilt_A": [3000, -2000]}, "beam tilt",
         {"rlnBeamTiltX": [1e3 * np.arcsin(3000 / 2.7e7), 1e3 * np.arcsin(3000 / 2.0e7)]}),
        ({"ctf/cs_mm": 2.62}, "spherical aberration", {"rlnSphericalAberration": [2.62, 2.62]}),
        ({"ctf/anisomag": [0.01, 0.002, 0.003, -0.01]}, "magnification matrix",
         {"rlnMagMat00": [1.01] * 2, "rlnMagMat01": [0.002] * 2, "rlnMagMat10": [0.003] * 2,
          "rlnMagMat11": [0.99] * 2}),
        ({"blob/psize_A": 1.27, "alignments3D/psize_A": 1.27}, "pixel size", {"rlnImagePixelSize": [1.27, 1.27]}),
        ({"ctf/accel_kv": 298}, "voltage", {"rlnVoltage": [298, 298]}),
        ({"ctf/amp_contrast": 0.09}, "amplitude contrast", {"rlnAmplitudeContrast": [0.09, 0.09]}),
    ],
)  # fmt: skip
def test_changed_optics_reach_the_table(
    changes: dict[str, Any], said: str, columns: dict[str, list[float]], tmp_path: Path
) -> None:
    reference = StarBuilder().write(tmp_path / "a.star")
    restored = through_cryosparc(reference, tmp_path, changes)
    assert said in restored.updated
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    before, after = starfile.read(reference), starfile.read(tmp_path / "c.star")
    for label, values in columns.items():
        np.testing.assert_allclose(after["optics"][label], values, atol=2e-6, err_msg=label)
    untouched = [label for label in before["optics"].columns if label not in columns]
    assert before["optics"][untouched].equals(after["optics"][untouched])
    poses = ("rlnOrigin", "rlnAngle") if said == "pixel size" else ()
    left = [label for label in before["particles"].columns if not label.startswith(poses)]
    assert before["particles"][left].equals(after["particles"][left])


def test_a_group_that_was_split_becomes_two_with_all_columns(tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.optics |= {"rlnMtfFileName": ["mtf_k3.star", "mtf_falcon.star"], "rlnOpticsGroupName": ["grid_A", "grid_B"]}
    reference = builder.write(tmp_path / "a.star")
    group = np.arange(8) % 4  # groups 1 and 2 of the reference hold 0, 2 and 1, 3
    restored = through_cryosparc(reference, tmp_path, {"ctf/exp_group_id": group})
    assert restored.updated == ("optics groups",)
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    optics, particles = (starfile.read(tmp_path / "c.star")[name] for name in ("optics", "particles"))
    assert optics["rlnOpticsGroup"].tolist() == [1, 2, 3, 4]
    assert particles["rlnOpticsGroup"].tolist() == [1, 2, 3, 4] * 2
    assert optics["rlnOpticsGroupName"].tolist() == ["grid_A", "grid_B", "grid_A_3", "grid_B_4"]
    assert optics["rlnMtfFileName"].tolist() == ["mtf_k3.star", "mtf_falcon.star"] * 2
    np.testing.assert_allclose(optics["rlnImagePixelSize"], [1.25, 1.3, 1.25, 1.3])


def test_groups_that_are_one_in_cryosparc_stay_apart(tmp_path: Path) -> None:
    reference = StarBuilder().write(tmp_path / "a.star")
    restored = through_cryosparc(reference, tmp_path, {"ctf/exp_group_id": 0})
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    assert (tmp_path / "c.star").read_bytes() == reference.read_bytes()


def test_optics_without_particles_keep_their_row(tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.optics = {label: [*values, values[-1]] for label, values in builder.optics.items()}
    builder.optics["rlnOpticsGroup"], builder.optics["rlnOpticsGroupName"][2] = ["1", "2", "9"], "unused"
    reference = builder.write(tmp_path / "a.star")
    restored = through_cryosparc(reference, tmp_path, {"ctf/tilt_A": [100, 50]})
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    optics = starfile.read(tmp_path / "c.star")["optics"]
    assert optics["rlnOpticsGroup"].tolist() == [1, 2, 9]
    assert optics["rlnBeamTiltX"].tolist()[2] == 0
    assert optics["rlnOpticsGroupName"].tolist()[2] == "unused"


def test_relion_3_0_has_optics_with_every_particle(tmp_path: Path, write_stack: Callable[..., Path]) -> None:
    reference = StarBuilder("3.0").write(tmp_path / "a.star")
    for i in range(2):
        write_stack(tmp_path / f"Extract/job012/mic{i}.mrcs", 4)
    changes = {"ctf/tilt_A": [3000, -2000], "blob/psize_A": 1.27, "alignments3D/psize_A": 1.27, "ctf/cs_mm": 2.65}
    restored = through_cryosparc(reference, tmp_path, changes)
    assert {"beam tilt", "pixel size", "spherical aberration"} <= set(restored.updated)
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    before, after = starfile.read(reference), starfile.read(tmp_path / "c.star")
    np.testing.assert_allclose(1e4 * after["rlnDetectorPixelSize"] / after["rlnMagnification"], 1.27, rtol=1e-6)
    np.testing.assert_allclose(after["rlnSphericalAberration"], 2.65)
    np.testing.assert_allclose(after["rlnBeamTiltY"], -1e3 * np.arcsin(2000 / 2.65e7), atol=1e-6)
    # A shift of so many pixels: in CryoSPARC the pixels have grown.
    np.testing.assert_allclose(after["rlnOriginX"], before["rlnOriginX"], atol=2e-6)


def changed(record: Record, field: str, value: Any) -> Record:
    other = record.copy()
    other[field] = value
    return other


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("ctf/tilt_A", (500, 100), "beam tilt"), ("ctf/cs_mm", 2.61, "spherical aberration"),
     ("ctf/anisomag", (0.02, 0, 0, 0.01), "magnification matrix"), ("blob/psize_A", 1.13, "pixel size")],
)  # fmt: skip
def test_a_reference_that_is_a_cs_takes_them_too(field: str, value: Any, said: str, tmp_path: Path) -> None:
    record = particles_record()
    other = changed(record, field, value)
    restored = restore(read_particles(save(tmp_path / "b.cs", other)), read_particles(save(tmp_path / "a.cs", record)))
    assert said in restored.updated
    write_particles_cs(restored.particles, tmp_path / "c.cs", restored.columns)
    back = np.load(tmp_path / "c.cs", allow_pickle=False)
    np.testing.assert_allclose(back[field], other[field], rtol=1e-6)
    for name in record.dtype.names or ():
        if name not in (field, "ctf/tilt_A") and not name.startswith("alignments3D/"):
            assert np.array_equal(back[name], record[name]), name
    shift_A = back["alignments3D/shift"] * back["alignments3D/psize_A"][:, None]
    np.testing.assert_allclose(
        shift_A, record["alignments3D/shift"] * record["alignments3D/psize_A"][:, None], rtol=1e-5
    )


def test_what_else_differs_is_listed(tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.columns["rlnCtfBfactor"] = ["80.0"] * 8
    reference = builder.write(tmp_path / "a.star")
    builder.columns["rlnSomethingUnknown"][3] = "77"
    builder.columns["rlnLogLikeliContribution"] = ["1.0"] * 8
    restored = restore(read_particles(builder.write(tmp_path / "b.star")), read_particles(reference))
    assert (restored.updated, restored.kept) == ((), ("rlnSomethingUnknown",))
    assert restored.not_taken == ("rlnLogLikeliContribution",)
    # CryoSPARC may have put B-factors back to 0.
    assert through_cryosparc(reference, tmp_path, {"ctf/bfactor": 0}).kept == ("rlnCtfBfactor",)


def restored_star(tmp_path: Path, change: Callable[[StarBuilder], None], style: str = "3.1") -> tuple[Restored, Path]:
    """Take what another program changed in the STAR file back to the original one, and write it."""
    reference = read_particles(StarBuilder(style=style).write(tmp_path / "a.star"))
    builder = StarBuilder()
    change(builder)
    restored = restore(read_particles(builder.write(tmp_path / "b.star")), reference)
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    return restored, tmp_path / "c.star"


def with_aberrations(builder: StarBuilder) -> None:
    builder.optics["rlnOddZernike"] = ["[0.125,-0.3,0,0,0.25,0]", "[0,0,0,0,0,0]"]
    builder.optics["rlnEvenZernike"] = ["[0,1e-3,0,0,0,0,0,0,0]", "[0,0,0,0,0,0,0.5,0,0]"]


def test_aberrations_that_were_refined_in_relion_are_taken(tmp_path: Path) -> None:
    restored, path = restored_star(tmp_path, with_aberrations)
    assert restored.updated == ("odd aberrations", "even aberrations")
    optics = starfile.read(path)["optics"]
    found = [[float(one) for one in text.strip("[]").split(",")] for text in optics["rlnEvenZernike"]]
    np.testing.assert_array_equal(found, [[0, 1e-3, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0.5, 0, 0]])
    assert read_particles(path).optics[0].odd_zernike == (0.125, -0.3, 0, 0, 0.25, 0)


def test_what_a_converter_left_out_is_not_taken_away(tmp_path: Path) -> None:
    """csparc2star and others write no Zernike coefficients, and often no beam tilt; where they are 0 they are told."""
    builder = StarBuilder()
    with_aberrations(builder)
    builder.optics |= {"rlnBeamTiltX": ["0.5", "0.1"], "rlnBeamTiltY": ["0", "0"]}
    reference = read_particles(builder.write(tmp_path / "b.star"))
    assert restore(read_particles(StarBuilder().write(tmp_path / "a.star")), reference).updated == ()
    zero = StarBuilder()
    zero.optics |= {"rlnOddZernike": ["[]", "[]"], "rlnBeamTiltX": ["0", "0"], "rlnBeamTiltY": ["0", "0"]}
    restored = restore(read_particles(zero.write(tmp_path / "z.star")), reference)
    assert restored.updated == ("beam tilt", "odd aberrations")
    write_particles_star(restored.particles, tmp_path / "d.star", restored.columns)
    optics = starfile.read(tmp_path / "d.star")["optics"]
    assert optics["rlnOddZernike"].tolist() == ["[0,0,0,0,0,0]"] * 2
    assert optics["rlnEvenZernike"].tolist() == builder.optics["rlnEvenZernike"]
    assert not optics["rlnBeamTiltX"].any()


def test_aberrations_without_a_place_are_named(tmp_path: Path) -> None:
    restored, _ = restored_star(tmp_path, with_aberrations, "3.0")
    assert {"rlnOddZernike", "rlnEvenZernike"} <= set(restored.not_taken)
    assert "odd aberrations" not in restored.updated


def premultiplied(builder: StarBuilder) -> None:
    builder.optics["rlnCtfDataAreCtfPremultiplied"] = ["1", "1"]


def other_mtf(builder: StarBuilder) -> None:
    builder.optics |= {"rlnMtfFileName": ["mtf.star"] * 2, "rlnMicrographOriginalPixelSize": ["0.625"] * 2}


def test_what_else_differs_in_optics_is_named(tmp_path: Path) -> None:
    """relion 651: relion_star_handler gave particles the optics of the other file, premultiplied or not."""
    assert restored_star(tmp_path, premultiplied)[0].kept == ("rlnCtfDataAreCtfPremultiplied",)
    restored, _ = restored_star(tmp_path, other_mtf)
    assert restored.not_taken == ("rlnMtfFileName", "rlnMicrographOriginalPixelSize")
    reference = read_particles(tmp_path / "b.star")
    other = StarBuilder()
    other_mtf(other)
    other.optics["rlnMtfFileName"] = ["mtf.star", "mtf_k3.star"]
    other.optics["rlnMicrographOriginalPixelSize"] = ["0.6250", "6.25e-1"]
    assert restore(read_particles(other.write(tmp_path / "e.star")), reference).kept == ("rlnMtfFileName",)
    assert restored.sentences(Path("b.star"))[0].endswith("(nothing is taken over).")


def test_a_phase_shift_in_the_optics_table_stays_where_defocus_changed(tmp_path: Path) -> None:
    builder = StarBuilder()
    builder.optics["rlnPhaseShift"] = ["70", "20"]
    reference = read_particles(builder.write(tmp_path / "a.star"))
    assert np.degrees(reference.ctf.phase_shift_rad).round(9).tolist() == [70, 20] * 4
    builder.columns["rlnDefocusU"] = [f"{float(one) + 50 * (i == 3):.6f}" for i, one in
                                      enumerate(builder.columns["rlnDefocusU"])]  # fmt: skip
    restored = restore(read_particles(builder.write(tmp_path / "b.star")), reference)
    write_particles_star(restored.particles, tmp_path / "c.star", restored.columns)
    after = read_particles(tmp_path / "c.star").ctf
    assert np.degrees(after.phase_shift_rad).round(6).tolist() == [70, 20] * 4
    assert after.defocus_u_A.tolist() == [float(one) for one in builder.columns["rlnDefocusU"]]
