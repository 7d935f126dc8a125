"""Maps that a result directory has already: the consensus, its states, and the volumes of the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.images.map_origin import Origin, generated, reconstructed
from cryodrgn_ext.results.decoded_volumes import volume_name
from cryodrgn_ext.results.layout import Layout

CONSENSUS = "consensus"


@dataclass(frozen=True)
class StoredMap:
    """A map of the result directory.

    Attributes
    ----------
    key : str
        By which the page asks for it.
    kind : str
        ``GENERATED`` or ``RECONSTRUCTED``.
    title : str
    path : Path
    """

    key: str
    kind: str
    title: str
    path: Path


def stored_maps(opened: OpenedResult) -> list[StoredMap]:
    """The maps that are there."""
    result, found = opened.result, list[StoredMap]()
    layout = Layout(result.directory)
    where = layout.root / "map.mrc" if result.job == "abinit" else layout.consensus / "map.mrc"
    found.append(_stored(CONSENSUS, reconstructed(result.particles.n, "all: the consensus"), where))
    states, home = result.states, Layout(opened.home)
    for number in range(0 if states is None else states.n_states):
        assert states is not None
        n = int(np.count_nonzero(states.label == number))
        origin = reconstructed(n, f"state {number:02d}")
        if result.states_directory is not None:  # a landscape's states are means of the model's volumes
            origin = generated(f": mean of its volumes in state {number:02d}, {n} particles")
        found.append(_stored(f"state{number:02d}", origin, home.state(number) / "map.mrc"))
    for number in range(len(list(layout.volumes.glob("vol_*.mrc")))):
        origin = generated(f": volume {number:03d}")
        found.append(_stored(f"volume{number:03d}", origin, layout.volumes / volume_name(number)))
    return [one for one in found if one.path.is_file()]


def _stored(key: str, origin: Origin, path: Path) -> StoredMap:
    return StoredMap(key, origin.kind, origin.title, path)
