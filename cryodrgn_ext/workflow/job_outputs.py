"""Outputs that several jobs have, see :mod:`cryodrgn_ext.workflow.job_result`: groups of particles with their maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.report.pictures import draw_slices
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.maps_for_relion import MAP_FOR_RELION
from cryodrgn_ext.results.record import RECORD_NAME
from cryodrgn_ext.workflow.job_result import MapOutput, Output, ParticleOutput, Picture, Role

HALF_MAPS = ("half1.mrc", "half2.mrc")


def picture(layout: Layout, name: str, caption: str, draw: partial[None]) -> Picture:
    """Picture ``name`` of a result directory; ``draw`` lacks only the path."""
    return Picture(layout.root / "pictures" / f"{name}.png", caption, draw)


def group_outputs(
    layout: Layout, titles: Mapping[int, str], file: str, uid: NDArray[np.uint64], label: NDArray[np.integer]
) -> list[Output]:
    """Particles and map of each group, with half-maps and mask where the group has them.

    Parameters
    ----------
    layout : Layout
    titles : mapping
        Number to name of the groups, which lie in :meth:`Layout.state`.
    file : str
        Name of the particles of a group.
    uid, label : ndarray
        (N,) particles, in the order of the input, and the group of each.
    """
    outputs: list[Output] = []
    for number, title in titles.items():
        folder, name = layout.state(number), f"state_{number:02d}"
        title = title[:1].upper() + title[1:]
        shown = picture(layout, name, title, partial(draw_slices, {title: folder / "map.mrc"}))
        outputs.append(ParticleOutput(name=name, title=f"{title}: particles", path=folder / file,
                                      uid=uid[label == number], picture=shown))  # fmt: skip
        outputs.append(map_with_halves(folder, name=name, title=title, picture=shown))
    return outputs


def map_with_halves(
    folder: Path, *, name: str = "", title: str, picture: Picture | None = None, role: Role = Role.RESULT
) -> MapOutput:
    """The map.mrc of a folder, with its half1.mrc, half2.mrc and mask.mrc if they are there."""
    halves = [folder / half for half in HALF_MAPS]
    mask, dark = folder / "mask.mrc", folder / MAP_FOR_RELION
    return MapOutput(
        path=folder / "map.mrc", name=name, title=title, picture=picture, role=role,
        half_maps=(halves[0], halves[1]) if all(half.exists() for half in halves) else (),
        mask=mask if mask.exists() else None,
        reference=dark if dark.exists() else None,
    )  # fmt: skip


def slices_of_groups(layout: Layout, titles: Mapping[int, str], caption: str) -> Picture:
    """Picture of the maps of all groups side by side."""
    maps = {title: layout.state(number) / "map.mrc" for number, title in titles.items()}
    return picture(layout, "states", caption, partial(draw_slices, maps))


def shown_maps(paths: Iterable[Path]) -> list[MapOutput]:
    """Maps that are shown beside the results: decoded volumes, components."""
    return [MapOutput(path=path, name=path.stem, title=path.stem, role=Role.EXTRA) for path in paths]


def kept_files(layout: Layout, *tables: str) -> tuple[Path, ...]:
    """The report in both forms, the record, and those of ``tables`` that exist."""
    named = (layout.report, layout.logfile, layout.root / RECORD_NAME, *(layout.root / name for name in tables))
    return tuple(path for path in named if path.is_file())
