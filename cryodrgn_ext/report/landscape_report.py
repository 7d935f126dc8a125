"""report.html and logfile.pdf of a landscape job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cryodrgn_ext.analysis.latents import Clustering
from cryodrgn_ext.analysis.shown_particles import ShownParticles, choose_shown
from cryodrgn_ext.analysis.surfaces import Surface
from cryodrgn_ext.analysis.volume_landscape import Landscape
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.report.charts import draw, variance_chart
from cryodrgn_ext.report.landscape_plots import (
    density_and_energy,
    layouts,
    learning_curves,
    sketch_by_state,
    state_counts,
    volume_dendrogram,
)
from cryodrgn_ext.report.map_pictures import draw_group_maps
from cryodrgn_ext.report.page import ReportContent, ReportFigure, StateSummary
from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.landscape_tables import read_arrays
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.particle_columns import shown_particles

SHOWN_COMPONENTS = 20
FILES = {
    "particles.star": "all particles, with states and volume components",
    "particles.cs": "all particles; particles.csg beside it is for Import Result Group",
    "states/": "particles, average volume (map.mrc) and on-data volume (on_data.mrc) of each state",
    "components/": "principal components of the volumes, and five maps along the first",
    "mask.mrc": "where volumes were compared",
    "landscape.npz": "v: volume components; cluster: the state; row, uid and image_name of each particle",
    "sketch.npz": "the sketched volumes: particles, latents, components, states (cluster), MDS, UMAP, tree",
    "states.npz": "state of each input particle (-1: not looked at)",
    "density_pc1_pc2.npz": "density and apparent free energy over components, with standard deviations",
}


def write_landscape_reports(
    facts: RunFacts,
    particles: ParticleSet,
    found: Landscape,
    surfaces: Sequence[tuple[Surface, tuple[int, ...]]],
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    facts : RunFacts
    particles : ParticleSet
        All of the input; ``found.rows`` are those looked at.
    found : Landscape
    surfaces : sequence
        Densities, each with the numbers of its components.
    """
    layout, clusters = facts.layout, found.clusters
    pictures = draw_group_maps([layout.state(number) / "map.mrc" for number in range(clusters.n_clusters)])
    states = [
        StateSummary(
            label=f"state {number:02d}",
            n=int(clusters.n_particles[number]),
            slices=drawn.slices,
            views=drawn.views,
            verdict=f"{clusters.n_volumes[number]} of the sketched volumes; not tested: run validate",
        )
        for number, drawn in enumerate(pictures)
    ]
    groups = Clustering(found.label, found.center_index, found.z[found.center_index])
    content = ReportContent(
        title="Landscape",
        n_particles=len(found.rows),
        box_size=found.model.box_size,
        pixel_size_A=found.model.pixel_size_A,
        states=states,
        further=_figures(layout, found, surfaces),
        z=found.z,
        clusters=groups,
        group_name="state",
        shown=_shown(particles, found, groups),
        planes={"volume PCs": ("volume PC 1", "volume PC 2")},
    )
    facts.write(content, facts.existing(FILES))


def _shown(particles: ParticleSet, found: Landscape, groups: Clustering) -> ShownParticles:
    """Particles to draw one by one: volume components before the columns of their file."""
    index = choose_shown(len(found.rows), groups.label, groups.center_index)
    shown = shown_particles(particles, found.rows[index])
    v = found.mapping.v
    components = {f"volume PC {k + 1}": v[index, k] for k in range(v.shape[1])}
    return replace(shown, index=index, columns={**components, **shown.columns})


def _figures(
    layout: Layout, found: Landscape, surfaces: Sequence[tuple[Surface, tuple[int, ...]]]
) -> list[ReportFigure]:
    section, clusters, mapping, pca = "Volumes", found.clusters, found.mapping, found.pca
    figures = [
        ReportFigure(section, "Volumes and particles of each state.",
                     state_counts(clusters.n_volumes, clusters.n_particles)),
        ReportFigure(section, "The upper part of the tree of volumes.",
                     volume_dendrogram(clusters.tree, clusters.n_clusters)),
        ReportFigure(section, "Share of the variance of the volumes along each principal component.",
                     draw([variance_chart(pca.explained_variance_ratio[:SHOWN_COMPONENTS], "volumes")])),
    ]  # fmt: skip
    sketch = read_arrays(layout.root / "sketch.npz")
    for first, second in ((0, 1), (1, 2)):
        if second < pca.n_components:
            drawn = sketch_by_state(
                pca.coordinates[:, [first, second]], clusters.label, sketch["particles"].astype(int), clusters.medoid,
                (f"volume PC {first + 1}", f"volume PC {second + 1}"),
            )  # fmt: skip
            caption = "Sketched volumes, coloured by state, area by particles; numbers mark on-data volumes."
            figures.append(ReportFigure(section, caption, drawn))
    planes = {name.upper(): sketch[name].astype(float) for name in ("mds", "umap") if name in sketch}
    caption = "Sketched volumes in planes, coloured by state."
    figures.append(ReportFigure(section, caption, layouts(planes, clusters.label)))
    for surface, components in surfaces:
        names = [f"volume PC {number}" for number in components]
        caption = (
            "All particles over volume components, with the standard deviation over bootstrap samples; crosses mark "
            "maxima that resampling leaves in place. Noise in the images blurs this density."
        )
        figures.append(ReportFigure("Landscape", caption, density_and_energy(surface, names)))
    if not mapping.is_exact:
        drawn = learning_curves(mapping.train_loss.tolist(), mapping.held_out_loss.tolist())
        figures.append(ReportFigure("Landscape", "Loss of the learned map to volume components.", drawn))
    return figures
