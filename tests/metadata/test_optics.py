from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.optics import OpticsGroup, optics_from_particles, read_optics_table
from cryodrgn_ext.metadata.star import new_table
from tests.metadata.conftest import StarBuilder

BASE: dict[str, list[Any]] = {
    "rlnOpticsGroup": ["3", "1"],
    "rlnOpticsGroupName": ["late", "early"],
    "rlnVoltage": [300.0, 200.0],
    "rlnSphericalAberration": [2.7, 0.01],
    "rlnAmplitudeContrast": [0.1, 0.07],
    "rlnImagePixelSize": [1.5, 2.0],
    "rlnImageSize": [128, 96],
}


def read(changed: dict[str, list[Any]] | None = None, without: tuple[str, ...] = ()) -> tuple[OpticsGroup, ...]:
    columns = {label: values for label, values in (BASE | (changed or {})).items() if label not in without}
    return read_optics_table(new_table("optics", columns))


def test_plain_groups() -> None:
    first, second = read()
    assert (first.name, first.number, first.pixel_size_A, first.box_size) == ("late", 3, 1.5, 128)
    assert (second.voltage_kV, second.cs_mm, second.amplitude_contrast) == (200.0, 0.01, 0.07)
    assert first.beam_tilt_mrad == (0.0, 0.0)
    assert first.mag_matrix == ((1.0, 0.0), (0.0, 1.0))
    assert first.odd_zernike == first.even_zernike == ()
    assert not first.ctf_premultiplied


def test_all_that_relion_may_say() -> None:
    first, second = read(
        {
            "rlnBeamTiltX": [0.5, 0],
            "rlnBeamTiltY": [-0.25, 0],
            "rlnOddZernike": ["[0.068,0.098,-1.8e+00,0,0,-1.36]", "[]"],
            "rlnEvenZernike": ["[45.5]", "[1, 2]"],
            "rlnMagMat00": [1.01, 1],
            "rlnMagMat01": [0.001, 0],
            "rlnMagMat10": [-0.002, 0],
            "rlnMagMat11": [0.99, 1],
            "rlnMtfFileName": ["mtf k3.star", ""],
            "rlnMicrographOriginalPixelSize": [0.75, 0],
            "rlnCtfDataAreCtfPremultiplied": [1, 0],
        }
    )
    assert first.beam_tilt_mrad == (0.5, -0.25)
    assert first.odd_zernike == (0.068, 0.098, -1.8, 0.0, 0.0, -1.36)
    assert second.odd_zernike == ()
    assert second.even_zernike == (1.0, 2.0)
    assert first.mag_matrix == ((1.01, 0.001), (-0.002, 0.99))
    assert first.ctf_premultiplied
    assert not second.ctf_premultiplied


def test_pixel_size_in_relions_order_of_preference() -> None:
    others: dict[str, list[object]] = {
        "rlnMicrographPixelSize": [3.0, 4.0],
        "rlnMicrographOriginalPixelSize": [5.0, 6.0],
    }
    sizes = [group.pixel_size_A for group in read(others)]
    assert sizes == [1.5, 2.0]
    assert read(others, ("rlnImagePixelSize",))[0].pixel_size_A == 3.0
    assert read(others, ("rlnImagePixelSize", "rlnMicrographPixelSize"))[0].pixel_size_A == 5.0


@pytest.mark.parametrize(
    ("changed", "without", "complaint"),
    [
        ({}, ("rlnImagePixelSize",), "has no pixel size"),
        ({}, ("rlnVoltage",), "no column _rlnVoltage, which the CTF needs"),
        ({}, ("rlnSphericalAberration",), "no column _rlnSphericalAberration"),
        ({}, ("rlnAmplitudeContrast",), "no column _rlnAmplitudeContrast"),
        ({}, ("rlnOpticsGroup",), "no column _rlnOpticsGroup"),
        ({"rlnImagePixelSize": [1.5, 0.0]}, (), r"row 2 .* pixel size \(Å\) is 0, but must be a finite number above 0"),
        ({"rlnImagePixelSize": [-1.5, 1.0]}, (), "row 1 .* pixel size"),
        ({"rlnImagePixelSize": ["nan", "1"]}, (), "row 1 .* pixel size .* is nan"),
        ({"rlnVoltage": [300.0, 0.0]}, (), "row 2 .* voltage"),
        ({"rlnVoltage": ["high", "1"]}, (), "row 1 .*_rlnVoltage is 'high', but a number"),
        ({"rlnSphericalAberration": ["nan", "1"]}, (), "row 1 .* spherical aberration"),
        ({"rlnAmplitudeContrast": [10.0, 0.1]}, (), "row 1 .* amplitude contrast is 10"),
        ({"rlnAmplitudeContrast": ["nan", "0.1"]}, (), "row 1 .* amplitude contrast is nan"),
        ({"rlnOpticsGroup": ["2", "2"]}, (), "row 2 .* optics group 2 is defined twice"),
        ({"rlnOpticsGroup": ["1.5", "2"]}, (), "row 1 .*1.5, but a whole number"),
        ({"rlnImageSize": ["big", "2"]}, (), "row 1 .*_rlnImageSize is 'big'"),
        ({"rlnImageSize": [128, 0]}, (), "row 2 .* image size is 0"),
        ({"rlnImageDimensionality": [2, 3]}, (), r"row 2 .*\(subtomograms\)"),
        ({"rlnOddZernike": ["[1,x]", "[]"]}, (), r"row 1 .*_rlnOddZernike is '\[1,x\]'"),
        ({"rlnEvenZernike": ["[1,nan]", "[]"]}, (), "row 1 .* not finite"),
        ({"rlnBeamTiltX": ["inf", "0"]}, (), "row 1 .* not finite"),
        ({"rlnMagMat00": [0.0, 1.0]}, (), "row 1 .* cannot be inverted"),
    ],
)
def test_impossible_optics(changed: dict[str, list[object]], without: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        read(changed, without)
    assert "\n" not in str(caught.value)


def test_empty_optics(star_builder: type[StarBuilder]) -> None:
    with pytest.raises(InputError, match="data_optics is empty"):
        read_optics_table(new_table("optics", {label: [] for label in BASE}))


def per_particle(**changed: list[object]) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {
        "rlnDetectorPixelSize": [5.0] * 4,
        "rlnMagnification": [38168.0] * 4,
        "rlnVoltage": [300.0] * 4,
        "rlnSphericalAberration": [2.7] * 4,
        "rlnAmplitudeContrast": [0.07] * 4,
    }
    return columns | changed


def test_one_group_from_relion_30() -> None:
    groups, index = optics_from_particles(new_table("images", per_particle()))
    assert len(groups) == 1
    assert groups[0].pixel_size_A == pytest.approx(1.31, abs=1e-4)
    assert groups[0].box_size is None
    assert index.tolist() == [0, 0, 0, 0]


def test_groups_from_relion_30_in_order_of_appearance() -> None:
    groups, index = optics_from_particles(
        new_table("images", per_particle(rlnVoltage=[300, 200, 300, 200], rlnBeamTiltX=[0.5, 0.5, 0.5, -0.5]))
    )
    assert index.tolist() == [0, 1, 0, 2]
    assert [(group.number, group.voltage_kV, group.beam_tilt_mrad) for group in groups] == [
        (1, 300.0, (0.5, 0.0)),
        (2, 200.0, (0.5, 0.0)),
        (3, 200.0, (-0.5, 0.0)),
    ]


def test_many_combinations_against_plain_python() -> None:
    rng = np.random.default_rng(0)
    columns = {label: rng.choice([1.0, 2.0, 4.0], 300) / 10 for label in per_particle()}
    columns["rlnBeamTiltX"], columns["rlnBeamTiltY"] = rng.choice([0.0, 0.5], (2, 300))
    columns["rlnVoltage"] = rng.choice([120.0, 200.0, 300.0], 300)
    groups, index = optics_from_particles(new_table("images", columns))
    rows = list(zip(*columns.values(), strict=True))
    assert len(groups) == len(set(rows))
    seen = dict.fromkeys(rows)
    assert index.tolist() == [list(seen).index(row) for row in rows]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"rlnMagnification": [10000.0, 0, 10000, 10000]}, "row 2 .* pixel size .* is nan"),
        ({"rlnMagnification": [10000.0, -1, 10000, 10000]}, "row 2 .* pixel size"),
        ({"rlnDetectorPixelSize": [5.0, 5, 0, 5]}, "row 3 .* pixel size"),
        ({"rlnDetectorPixelSize": ["5", "nan", "5", "5"]}, "row 2 .*_rlnDetectorPixelSize is nan"),
        ({"rlnVoltage": [300.0, 300, 300, 0]}, "row 4 .* voltage"),
    ],
)
def test_impossible_values_of_relion_30(changed: dict[str, list[object]], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        optics_from_particles(new_table("images", per_particle(**changed)))


@pytest.mark.parametrize("missing", list(per_particle()))
def test_missing_columns_of_relion_30(missing: str) -> None:
    columns = {label: values for label, values in per_particle().items() if label != missing}
    with pytest.raises(InputError, match=f"column _{missing}"):
        optics_from_particles(new_table("images", columns))
