"""Results list their files in order, group maps with what belongs to them, and draw pictures only when shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryodrgn_ext.workflow.job_result import (
    JobResult,
    MapOutput,
    MaskOutput,
    OutputKind,
    ParticleOutput,
    Picture,
    Role,
)


def test_files_are_those_that_exist_in_order(tmp_path: Path) -> None:
    names = ("particles.star", "map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "region.mrc", "logfile.pdf")
    paths = {name: tmp_path / name for name in names}
    for path in paths.values():
        path.touch()
    uid = np.arange(3, dtype=np.uint64)
    result = JobResult(
        tmp_path,
        (
            ParticleOutput(uid=uid, path=paths["particles.star"]),
            ParticleOutput(name="rest", uid=uid[:0], role=Role.REST),
            MapOutput(path=paths["map.mrc"], half_maps=(paths["half1.mrc"], paths["half2.mrc"]),
                      mask=paths["mask.mrc"]),
            MaskOutput(path=paths["region.mrc"]),
            MapOutput(path=tmp_path / "not made.mrc", role=Role.EXTRA),
        ),
        log=paths["logfile.pdf"],
    )  # fmt: skip
    assert [(file.path.name, file.kind) for file in result.files] == [
        ("particles.star", OutputKind.PARTICLES), ("map.mrc", OutputKind.MAP), ("half1.mrc", OutputKind.HALF_MAP),
        ("mask.mrc", OutputKind.MASK), ("region.mrc", OutputKind.MASK), ("logfile.pdf", OutputKind.PDF),
    ]  # fmt: skip


def test_a_picture_is_drawn_once_and_only_when_shown(tmp_path: Path) -> None:
    drawn: list[Path] = []

    def draw(path: Path) -> None:
        drawn.append(path)
        path.write_bytes(b"png")

    picture = Picture(tmp_path / "pictures/one.png", "One", draw)
    assert not drawn
    assert picture.file == picture.file == tmp_path / "pictures/one.png"
    assert drawn == [picture.path]
    assert picture.file.read_bytes() == b"png"
