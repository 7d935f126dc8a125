"""States of a landscape job: their maps and the user's own particles."""

from __future__ import annotations

import shutil

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.volume_basis import combined_maps
from cryodrgn_ext.analysis.volume_clusters import VolumeClusters
from cryodrgn_ext.durable_files import atomic_directory
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.jobs.landscape_stages import LandscapeStages
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.results.landscape_tables import ParticleMapping, write_arrays
from cryodrgn_ext.results.latent_tables import StateTable, write_state_table
from cryodrgn_ext.results.returned_particles import (
    STATE_COLUMN,
    VOLUME_COLUMN,
    say_conversion,
    wants_columns,
    write_particles,
)

TRAVERSAL_PERCENTILES = (5.0, 27.5, 50.0, 72.5, 95.0)


def write_state_maps(stages: LandscapeStages, clusters: VolumeClusters) -> None:
    """Write states/stateNN with average and on-data volume, and components/ with eigenvolumes and traversals."""
    settings, layout, model = stages.settings, stages.layout, stages.model
    pca = stages.volumes()[1].first(settings.components)
    v = ParticleMapping.read(stages.mapping_path).v
    basis = stages.basis()
    n_traversed = min(settings.traversals, pca.n_components)
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
    n_states, mask = 2 * len(folders), stages.read_mask()
    with atomic_directory(layout.checkpoint / "maps") as temporary:
        for folder in (*folders, "components"):
            (temporary / folder).mkdir()
        maps = combined_maps(basis, weights, model.box_size, stages.monitor)
        for number, (name, volume) in enumerate(zip(names, maps, strict=True)):
            eigenvolume = n_states <= number < n_states + pca.n_components
            write_map(temporary / f"{name}.mrc", volume * mask if eigenvolume else volume, model.pixel_size_A)
    layout.states.mkdir(exist_ok=True)
    for stale in layout.states.glob("state[0-9]*"):
        shutil.rmtree(stale)  # of an earlier cut
    for folder in folders:
        (layout.checkpoint / "maps" / folder).rename(layout.states / folder)
    shutil.rmtree(layout.root / "components", ignore_errors=True)
    (layout.checkpoint / "maps" / "components").rename(layout.root / "components")
    (layout.checkpoint / "maps").rmdir()


def write_state_particles(stages: LandscapeStages, clusters: VolumeClusters, particles: ParticleSet, name: str) -> None:
    """Write all particles and those of each state under ``name``, landscape.npz and states.npz."""
    layout, rows = stages.layout, stages.rows
    mapping = ParticleMapping.read(stages.mapping_path)
    label = clusters.label[mapping.nearest]
    everywhere = np.full(particles.n, -1, np.int32)
    everywhere[rows] = label
    columns: dict[str, NDArray[np.generic]] = {}
    if name.endswith(".star") and wants_columns(particles, stages.settings.star_columns):
        for number in range(mapping.v.shape[1]):
            values = np.zeros(particles.n, np.float32)
            values[rows] = mapping.v[:, number]
            columns[f"{VOLUME_COLUMN}{number + 1}"] = values
        columns[STATE_COLUMN] = everywhere
    say_conversion(particles, layout.root / name, stages.monitor)
    for number in range(clusters.n_clusters):
        write_particles(layout.state(number) / name, particles, rows[label == number], columns)
    write_particles(layout.root / name, particles, None if len(rows) == particles.n else rows, columns)
    write_state_table(layout.states_table, StateTable(everywhere, rows[stages.sketch_index[clusters.medoid]]))
    write_arrays(
        layout.root / "landscape.npz",
        {"v": mapping.v, "cluster": label, "row": rows, "uid": particles.uid[rows],
         "image_name": particles.image_name[rows]},
    )  # fmt: skip
