"""STAR files that are wrong in one way each."""

from __future__ import annotations

import os

from tests.malformed.tiny_project import Table, TinyProject, table_text

STAR = Table()
case = STAR.case


@case("train", r"particles\.star", "does not exist|no such file")
def star_missing(project: TinyProject) -> None:
    project.write()
    project.star.unlink()


@case("train", r"particles\.star", "empty|no table|data_")
def star_empty(project: TinyProject) -> None:
    project.write()
    project.star.write_text("")


@case("train", r"particles\.star", "folder|directory")
def star_is_a_folder(project: TinyProject) -> None:
    project.write()
    project.star.unlink()
    project.star.mkdir()


@case("train", r"particles\.star", "text|STAR|UTF-8")
def star_of_random_bytes(project: TinyProject) -> None:
    project.write()
    project.star.write_bytes(os.urandom(4096))


@case("train", r"particles\.star", "text|STAR|UTF-8")
def star_that_is_an_image_stack(project: TinyProject) -> None:
    project.write()
    project.star.write_bytes(project.stack.read_bytes())


@case("train", r"particles\.star", "text|STAR|UTF-8")
def star_in_utf16(project: TinyProject) -> None:
    project.write()
    project.star.write_bytes(project.text().encode("utf-16"))


@case("train", r"particles\.cs", r"no \.cs file")
def star_that_is_no_cryosparc_dataset(project: TinyProject) -> list[str]:
    project.write()
    (project.root / "particles.cs").write_bytes(b"\x94CSDAT" + os.urandom(512))
    return ["--in_parts", "particles.cs"]


@case("train", r"particles\.star", "data_particles")
def star_without_particles_table(project: TinyProject) -> None:
    project.write()
    project.star.write_text(table_text("optics", project.optics))


@case("train", r"particles\.star", "rlnOpticsGroup|data_optics|optics")
def star_without_optics_table(project: TinyProject) -> None:
    project.write()
    project.star.write_text(table_text("particles", project.particles))


@case("train", r"particles\.star", "no particles|empty|no rows")
def star_without_rows(project: TinyProject) -> None:
    project.write()
    header = table_text("particles", project.particles[:1]).splitlines()[:-2]
    project.star.write_text(table_text("optics", project.optics) + "\n".join(header) + "\n")


@case("train", r"particles\.star", "rlnImageName")
def star_without_image_names(project: TinyProject) -> None:
    project.drop("particles", "rlnImageName")


@case("train", r"particles\.star", "rlnAngleRot")
def star_without_angles(project: TinyProject) -> None:
    project.drop("particles", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


@case("train", r"particles\.star", "rlnAnglePsi")
def star_without_one_angle(project: TinyProject) -> None:
    project.drop("particles", "rlnAnglePsi")


@case("train", r"particles\.star", "rlnDefocusU")
def star_without_defocus(project: TinyProject) -> None:
    project.drop("particles", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


@case("train", r"particles\.star", "rlnVoltage")
def star_without_voltage(project: TinyProject) -> None:
    project.drop("optics", "rlnVoltage")


@case("train", r"particles\.star", "pixel size|PixelSize")
def star_without_pixel_size(project: TinyProject) -> None:
    project.drop("optics", "rlnImagePixelSize")


@case("train", r"particles\.star", "pixel size")
def star_with_zero_pixel_size(project: TinyProject) -> None:
    project.set_everywhere("optics", "rlnImagePixelSize", "0.000000")


@case("train", r"particles\.star", "voltage")
def star_with_negative_voltage(project: TinyProject) -> None:
    project.set_everywhere("optics", "rlnVoltage", "-300")


@case("train", r"particles\.star", "amplitude contrast")
def star_with_amplitude_contrast_of_two(project: TinyProject) -> None:
    project.set_everywhere("optics", "rlnAmplitudeContrast", "2.0")


@case("train", r"particles\.star", "rlnAngleTilt", "row 5|particle 5|line")
def star_with_nan_angle(project: TinyProject) -> None:
    project.particles[4]["rlnAngleTilt"] = "nan"


@case("train", r"particles\.star", "rlnDefocusU")
def star_with_nan_defocus(project: TinyProject) -> None:
    project.particles[7]["rlnDefocusU"] = "-nan"


@case("train", r"particles\.star", "rlnOriginXAngst")
def star_with_infinite_shift(project: TinyProject) -> None:
    project.particles[3]["rlnOriginXAngst"] = "inf"


@case("train", r"particles\.star", "rlnAngleRot", "abc")
def star_with_word_for_a_number(project: TinyProject) -> None:
    project.particles[3]["rlnAngleRot"] = "abc"


@case("train", r"particles\.star", "rlnOpticsGroup|optics group", "7")
def star_with_undefined_optics_group(project: TinyProject) -> None:
    project.particles[2]["rlnOpticsGroup"] = "7"


@case("train", r"particles\.star", "optics group|rlnOpticsGroup")
def star_with_optics_group_defined_twice(project: TinyProject) -> None:
    project.optics.append(dict(project.optics[0]))


@case("train", r"particles\.star", "value|column")
def star_row_with_a_value_missing(project: TinyProject) -> None:
    del project.particles[5]["rlnRandomSubset"]


@case("train", r"particles\.star", "value|column")
def star_row_with_a_value_too_many(project: TinyProject) -> None:
    project.particles[5]["extra"] = "0.5"


@case("train", r"particles\.star", "value|column")
def star_cut_off_in_the_last_row(project: TinyProject) -> None:
    project.write()
    text = project.star.read_text().rstrip()
    project.star.write_text(text[: text.rindex(" ") - 10])


@case("train", r"particles\.star", "rlnAngleRot", "twice|two|more than once|repeated")
def star_with_a_column_twice(project: TinyProject) -> None:
    project.write()
    project.star.write_text(project.star.read_text().replace("_rlnAngleTilt", "_rlnAngleRot"))


@case("train", r"particles\.star", "twice|two|more than once|repeated")
def star_with_a_table_twice(project: TinyProject) -> None:
    project.write()
    project.star.write_text(project.text() + table_text("particles", project.particles))


@case("train", r"particles\.star", "quot|value|column")
def star_with_an_open_quote(project: TinyProject) -> None:
    project.particles[5]["rlnMicrographName"] = '"mic 1.mrc'


@case("train", r"particles\.star", "rlnImageName", "@")
def star_image_name_without_number(project: TinyProject) -> None:
    project.particles[0]["rlnImageName"] = "Particles/images.mrcs"


@case("train", r"particles\.star", "rlnImageName", "x0x@")
def star_image_number_is_a_word(project: TinyProject) -> None:
    project.particles[1]["rlnImageName"] = "x0x@Particles/images.mrcs"


@case("train", r"particles\.star", "rlnImageName|image", "000000@|from 1|number 0")
def star_image_number_zero(project: TinyProject) -> None:
    project.particles[1]["rlnImageName"] = "000000@Particles/images.mrcs"


@case("train", "images.mrcs", "24", "99")
def star_image_number_beyond_the_stack(project: TinyProject) -> None:
    project.particles[1]["rlnImageName"] = "000099@Particles/images.mrcs"


@case("train", r"particles\.star", "rlnRandomSubset")
def star_with_half_set_three(project: TinyProject) -> None:
    project.particles[1]["rlnRandomSubset"] = "3"


@case("train", r"particles\.star", "rlnRandomSubset")
def star_with_some_half_sets_missing(project: TinyProject) -> None:
    project.particles[1]["rlnRandomSubset"] = "0"


@case("train", r"particles\.star", "tomo")
def star_of_relion5_tomography(project: TinyProject) -> None:
    project.write()
    for row in project.particles:
        row["rlnImageName"] = "Subtomograms/1_stack2d.mrcs"
        row["rlnTomoVisibleFrames"] = "[1,1,1]"
    head = "\n# version 50001\n\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n"
    project.star.write_text(head + project.text())


@case("train", r"particles\.star", "rlnOddZernike")
def star_with_broken_zernike_list(project: TinyProject) -> None:
    project.set_everywhere("optics", "rlnOddZernike", "[0.1,0.2,zero]")


@case("train", r"particles\.star", "rlnDetectorPixelSize|rlnMagnification|pixel size|optics")
def star_of_relion30_without_magnification(project: TinyProject) -> None:
    project.write()
    project.drop("particles", "rlnOpticsGroup", "rlnOriginXAngst", "rlnOriginYAngst")
    for row in project.particles:
        row.update(rlnVoltage="300", rlnSphericalAberration="2.7", rlnAmplitudeContrast="0.1", rlnOriginX="0")
        row.update(rlnOriginY="0")
    project.star.write_text(table_text("", project.particles))
