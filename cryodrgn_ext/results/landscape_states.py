"""States of a landscape job: their maps and the user's own particles."""

from __future__ import annotations

import shutil

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.volume_basis import combined_maps, volume_basis
from cryodrgn_ext.analysis.volume_landscape import Landscape
from cryodrgn_ext.durable_files import atomic_directory
from cryodrgn_ext.images.map_origin import generated
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.plain_files import write_arrays
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.landscape_tables import LandscapeFiles
from cryodrgn_ext.results.latent_tables import StateTable, write_state_table
from cryodrgn_ext.results.returned_particles import (
    STATE_COLUMN,
    VOLUME_COLUMN,
    say_conversion,
    wants_columns,
    write_groups,
    write_particles,
)

TRAVERSAL_PERCENTILES = (5.0, 27.5, 50.0, 72.5, 95.0)


def write_state_maps(
    files: LandscapeFiles, found: Landscape, n_components: int, n_traversals: int, monitor: Monitor
) -> None:
    """Write states/stateNN with average and on-data volume, and components/ with eigenvolumes and traversals.

    Parameters
    ----------
    files : LandscapeFiles
    found : Landscape
    n_components, n_traversals : int
        How many components have eigenvolumes, and how many of them volumes along them.
    monitor : Monitor
    """
    layout, model, clusters = files.layout, found.model, found.clusters
    pca, v = found.pca.first(n_components), found.mapping.v
    basis = volume_basis(model, found.z[found.sketch_index])
    n_traversed = min(n_traversals, pca.n_components)
    steps = np.percentile(v[:, :n_traversed], TRAVERSAL_PERCENTILES, axis=0)
    weights = np.concatenate([
        clusters.averaging() @ basis.sketch_weights,
        basis.sketch_weights[clusters.medoid],
        pca.axes,
        *(pca.mean_weights + steps[:, [number]] * pca.axes[number] for number in range(n_traversed)),
    ])  # fmt: skip
    folders = [layout.state(number).name for number in range(clusters.n_clusters)]
    names = [f"{folder}/map" for folder in folders] + [f"{folder}/on_data" for folder in folders]
    names += [f"components/pc{number + 1:02d}" for number in range(pca.n_components)]
    names += [f"components/pc{n + 1:02d}_{step:03d}" for n in range(n_traversed) for step in range(len(steps))]
    n_states, mask = 2 * len(folders), read_map(files.mask).data > 0.5
    with atomic_directory(layout.checkpoint / "maps") as temporary:
        for folder in (*folders, "components"):
            (temporary / folder).mkdir()
        maps = combined_maps(basis, weights, model.box_size, monitor)
        for number, (name, volume) in enumerate(zip(names, maps, strict=True)):
            eigenvolume = n_states <= number < n_states + pca.n_components
            shown = volume * mask if eigenvolume else volume
            write_map(temporary / f"{name}.mrc", shown, model.pixel_size_A, generated(f": {name} of the landscape"))
    _put_in_place(files, folders)


def _put_in_place(files: LandscapeFiles, folders: list[str]) -> None:
    """Replace the states and components of an earlier run by the maps that were made in the checkpoint."""
    layout = files.layout
    made = layout.checkpoint / "maps"
    layout.states.mkdir(exist_ok=True)
    for earlier in layout.states.glob("state[0-9]*"):
        shutil.rmtree(earlier)
    for folder in folders:
        (made / folder).rename(layout.states / folder)
    shutil.rmtree(files.components, ignore_errors=True)
    (made / "components").rename(files.components)
    made.rmdir()


def write_state_particles(
    files: LandscapeFiles, found: Landscape, particles: ParticleSet, name: str, star_columns: str, monitor: Monitor
) -> None:
    """Write all particles and those of each state under ``name``, landscape.npz and states.npz.

    Parameters
    ----------
    files : LandscapeFiles
    found : Landscape
    particles : ParticleSet
        All of the input.
    name : str
        File name of returned particles.
    star_columns : str
        Whether STAR files carry our columns, see :func:`wants_columns`.
    monitor : Monitor
    """
    layout, rows, label, v = files.layout, found.rows, found.label, found.mapping.v
    everywhere = np.full(particles.n, -1, np.int32)
    everywhere[rows] = label
    columns: dict[str, NDArray[np.generic]] = {}
    if name.endswith(".star") and wants_columns(particles, star_columns):
        for number in range(v.shape[1]):
            values = np.zeros(particles.n, np.float32)
            values[rows] = v[:, number]
            columns[f"{VOLUME_COLUMN}{number + 1}"] = values
        columns[STATE_COLUMN] = everywhere
    say_conversion(particles, layout.root / name, monitor)
    groups = {number: rows[label == number] for number in range(found.clusters.n_clusters)}
    write_groups(layout, name, particles, groups, columns)
    write_particles(layout.root / name, particles, None if len(rows) == particles.n else rows, columns)
    write_state_table(layout.states_table, StateTable(everywhere, rows[found.center_index]))
    write_arrays(
        files.particle_table,
        {"v": v, "cluster": label, "row": rows, "uid": particles.uid[rows], "image_name": particles.image_name[rows]},
    )
