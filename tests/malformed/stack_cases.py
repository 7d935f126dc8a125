"""Image stacks and maps that are wrong in one way each."""

from __future__ import annotations

import bz2
import os
import struct

import mrcfile
import numpy as np

from tests.malformed.tiny_project import BOX, Table, TinyProject, ball, tiny_images, write_stack, write_volume

STACKS = Table()
case = STACKS.case


def _patch_header(project: TinyProject, offset: int, *values: int) -> None:
    project.write()
    with open(project.stack, "rb+") as handle:
        handle.seek(offset)
        handle.write(struct.pack(f"<{len(values)}i", *values))


@case("train", r"images\.mrcs", "does not exist|no such")
def stack_missing(project: TinyProject) -> None:
    project.write()
    project.stack.unlink()


@case("train", r"images\.mrcs", "truncated|shorter")
def stack_cut_in_the_middle(project: TinyProject) -> None:
    project.write()
    os.truncate(project.stack, project.stack.stat().st_size // 2)


@case("train", r"images\.mrcs", "truncated|shorter")
def stack_one_byte_short(project: TinyProject) -> None:
    project.write()
    os.truncate(project.stack, project.stack.stat().st_size - 1)


@case("train", r"images\.mrcs", "header|MRC")
def stack_shorter_than_a_header(project: TinyProject) -> None:
    project.write()
    os.truncate(project.stack, 500)


@case("train", r"images\.mrcs", "header|MRC|empty")
def stack_of_no_bytes(project: TinyProject) -> None:
    project.write()
    project.stack.write_bytes(b"")


@case("train", r"images\.mrcs", "MRC")
def stack_that_is_text(project: TinyProject) -> None:
    project.write()
    project.stack.write_text("these are not images\n" * 500)


@case("train", r"images\.mrcs", "MRC")
def stack_compressed(project: TinyProject) -> None:
    project.write()
    project.stack.write_bytes(bz2.compress(project.stack.read_bytes()))


@case("train", r"images\.mrcs", "mode 4|complex")
def stack_of_complex_numbers(project: TinyProject) -> None:
    _patch_header(project, 12, 4)


@case("train", r"images\.mrcs", "mode 77|mode")
def stack_of_unknown_mode(project: TinyProject) -> None:
    _patch_header(project, 12, 77)


@case("train", r"images\.mrcs", "header|MRC")
def stack_with_negative_size(project: TinyProject) -> None:
    _patch_header(project, 0, -32, 32)


@case("train", r"images\.mrcs", "square")
def stack_of_oblong_images(project: TinyProject) -> None:
    write_stack(project.stack, np.zeros((24, BOX, BOX // 2), np.float32))


@case("train", r"images\.mrcs", "40", "32")
def stack_of_another_box(project: TinyProject) -> None:
    write_stack(project.stack, np.random.default_rng(0).normal(size=(24, 40, 40)).astype(np.float32))


@case("train", r"images\.mrcs", "finite|nan")
def stack_of_images_that_are_not_finite(project: TinyProject) -> None:
    images = tiny_images()
    images[4:, 3:20] = np.nan
    write_stack(project.stack, images)


@case("train", r"images\.mrcs|image", "constant|same value|no contrast|background|empty")
def stack_of_empty_images(project: TinyProject) -> None:
    images = tiny_images()
    images[4:] = 0
    write_stack(project.stack, images)


@case("train", r"images\.mrcs", "folder|directory|cannot be read")
def stack_is_a_folder(project: TinyProject) -> None:
    project.write()
    project.stack.unlink()
    project.stack.mkdir()


@case("train", r"images\.mrcs", "does not exist|no such")
def stack_is_a_dangling_link(project: TinyProject) -> None:
    project.write()
    project.stack.unlink()
    project.stack.symlink_to(project.root / "nowhere.mrcs")


@case("train", r"images\.mrcs", "a part of the path|cannot be read|folder|does not exist")
def stack_below_a_file(project: TinyProject) -> None:
    project.write()
    project.stack.unlink()
    project.stack.parent.rmdir()
    project.stack.parent.write_text("a file, not a folder")


@case("train", r"mask\.mrc", "does not exist|no such")
def mask_missing(project: TinyProject) -> list[str]:
    project.write()
    return ["--in_parts", "particles.star", "--in_mask", "mask.mrc"]


@case("train", r"mask\.mrc", "48", "32")
def mask_of_another_box(project: TinyProject) -> list[str]:
    project.write()
    write_volume(project.root / "mask.mrc", ball(48))
    return ["--in_parts", "particles.star", "--in_mask", "mask.mrc"]


@case("train", r"mask\.mrc", "empty|zero|reach 1")
def mask_of_zeros(project: TinyProject) -> list[str]:
    project.write()
    write_volume(project.root / "mask.mrc", 0 * ball())
    return ["--in_parts", "particles.star", "--in_mask", "mask.mrc"]


@case("train", r"mask\.mrc", "0 to 1|0 and 1|between")
def mask_that_is_a_map(project: TinyProject) -> list[str]:
    project.write()
    write_volume(project.root / "mask.mrc", 100 * ball() - 50)
    return ["--in_parts", "particles.star", "--in_mask", "mask.mrc"]


@case("train", r"mask\.mrc", "inverted")
def mask_inverted(project: TinyProject) -> list[str]:
    project.write()
    write_volume(project.root / "mask.mrc", 1 - ball())
    return ["--in_parts", "particles.star", "--in_mask", "mask.mrc"]


@case("train", r"reference\.mrc", "cubic|cube")
def reference_not_cubic(project: TinyProject) -> list[str]:
    project.write()
    write_volume(project.root / "reference.mrc", ball()[:20])
    return ["--in_parts", "particles.star", "--in_3dref", "reference.mrc"]


@case("train", r"reference\.mrc", "finite|nan")
def reference_with_nan(project: TinyProject) -> list[str]:
    project.write()
    volume = ball()
    volume[3, 3, 3] = np.nan
    write_volume(project.root / "reference.mrc", volume)
    return ["--in_parts", "particles.star", "--in_3dref", "reference.mrc"]


@case("train", r"reference\.mrc", "truncated|shorter")
def reference_truncated(project: TinyProject) -> list[str]:
    project.write()
    write_volume(project.root / "reference.mrc", ball())
    os.truncate(project.root / "reference.mrc", 5000)
    return ["--in_parts", "particles.star", "--in_3dref", "reference.mrc"]


@case("fsc", r"second\.mrc", "does not exist|no such")
def fsc_map_missing(project: TinyProject) -> list[str]:
    write_volume(project.root / "first.mrc", ball())
    return ["first.mrc", "second.mrc"]


@case("fsc", r"second\.mrc|first\.mrc", "48", "32")
def fsc_maps_of_different_boxes(project: TinyProject) -> list[str]:
    write_volume(project.root / "first.mrc", ball())
    write_volume(project.root / "second.mrc", ball(48))
    return ["first.mrc", "second.mrc"]


@case("fsc", r"second\.mrc|first\.mrc", "pixel size|voxels")
def fsc_maps_of_different_pixel_sizes(project: TinyProject) -> list[str]:
    write_volume(project.root / "first.mrc", ball())
    write_volume(project.root / "second.mrc", ball())
    with mrcfile.open(project.root / "second.mrc", "r+") as file:
        file.voxel_size = 1.5
    return ["first.mrc", "second.mrc"]


@case("fsc", r"second\.mrc", "MRC")
def fsc_map_that_is_text(project: TinyProject) -> list[str]:
    write_volume(project.root / "first.mrc", ball())
    (project.root / "second.mrc").write_text("no map " * 500)
    return ["first.mrc", "second.mrc"]
