"""Small pictures of finished jobs, for suites that show images beside results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import principal_components
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.report.landscape_plots import density_and_energy
from cryodrgn_ext.report.plots import central_slices, fsc_curves, latent_by_label, latent_histogram, map_slices
from cryodrgn_ext.results.landscape_tables import read_arrays, read_surface
from cryodrgn_ext.results.latent_tables import read_latent_table, read_state_table
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.states import read_state

DOTS_PER_INCH = 110
# Maps side by side in one picture.
MOST_MAPS = 20


@dataclass(frozen=True)
class Pictures:
    """Files in png form.

    Attributes
    ----------
    latents : Path or None
        Particles in latent space, coloured by state; None for a homogeneous result.
    states : Path
        Slices of all states side by side.
    state : tuple of Path
        Slices of each state.
    """

    latents: Path | None
    states: Path
    state: tuple[Path, ...]


def draw_pictures(result: Path, folder: Path) -> Pictures:
    """Draw the pictures of a result directory.

    Parameters
    ----------
    result : Path
        Result directory of a train job.
    folder : Path
        Where the pictures go; made when missing.

    Raises
    ------
    InputError
        When the directory is not what a train job left.
    """
    layout = Layout(result)
    table = read_state_table(layout.states_table)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"state {number:02d}" for number in range(len(table.center_index))]
    maps = (read_map(layout.state(number) / "map.mrc").data for number in range(len(names)))
    slices = {name: central_slices(data) for name, data in zip(names, maps, strict=True)}
    each = tuple(
        save_picture(map_slices({name: one}), folder / f"state_{number:02d}.png")
        for number, (name, one) in enumerate(slices.items())
    )
    latents = None
    if layout.latents.exists():
        z = read_latent_table(layout.latents).z
        if z.shape[1] == 1:
            figure = latent_histogram(z[:, 0], "latent 1")
        else:
            plane = principal_components(z).projections[:, :2]
            figure = latent_by_label(plane, table.label, ("PC 1", "PC 2"), plane[table.center_index], what="state")
        latents = save_picture(figure, folder / "latents.png")
    return Pictures(latents, save_picture(map_slices(slices), folder / "states.png"), each)


@dataclass(frozen=True)
class ValidationPictures:
    """Files in png form: FSC curves of all sets, slices of all maps side by side, and slices of each."""

    fsc: Path
    states: Path
    state: tuple[Path, ...]


def draw_validation_pictures(result: Path, names: Mapping[int, str], folder: Path) -> ValidationPictures:
    """Draw the pictures of a validate job.

    Parameters
    ----------
    result : Path
        Its result directory.
    names : mapping
        Number to name of the sets.
    folder : Path
        Where the pictures go; made when missing.

    Raises
    ------
    InputError
        When the directory is not what a validate job left.
    """
    layout = Layout(result)
    folder.mkdir(parents=True, exist_ok=True)
    slices, curves, pixel_size_A = {}, {}, 1.0
    for number, name in names.items():
        volume, state = read_map(layout.state(number) / "map.mrc"), read_state(layout.state(number))
        if state is None:
            raise InputError(f"{layout.state(number)} is missing or damaged: run the validate job again.")
        slices[name], curves[name], pixel_size_A = central_slices(volume.data), np.array(state.fsc), volume.pixel_size_A
    each = tuple(
        save_picture(map_slices({name: slices[name]}), folder / f"state_{number:02d}.png")
        for number, name in names.items()
    )
    return ValidationPictures(
        save_picture(fsc_curves(curves, pixel_size_A), folder / "fsc.png"),
        save_picture(map_slices(slices), folder / "states.png"),
        each,
    )


@dataclass(frozen=True)
class LandscapePictures:
    """Files in png form.

    Attributes
    ----------
    particles : Path
        Particles over the first volume components, coloured by cluster.
    densities : tuple of Path
        Density and apparent free energy, over each plane that the job looked at.
    states : Path
        Slices of the average maps side by side, of the first 20 clusters.
    state : tuple of Path
        Slices of the average map of each cluster.
    """

    particles: Path
    densities: tuple[Path, ...]
    states: Path
    state: tuple[Path, ...]


def draw_landscape_pictures(result: Path, folder: Path) -> LandscapePictures:
    """Draw the pictures of a landscape job.

    Parameters
    ----------
    result : Path
        Its result directory.
    folder : Path
        Where the pictures go; made when missing.

    Raises
    ------
    InputError
        When the directory is not what a landscape job left.
    """
    layout = Layout(result)
    centers = read_state_table(layout.states_table).center_index
    arrays = read_arrays(layout.root / "landscape.npz")
    folder.mkdir(parents=True, exist_ok=True)
    slices = {
        f"state {number:02d}": central_slices(read_map(layout.state(number) / "map.mrc").data)
        for number in range(len(centers))
    }
    each = tuple(
        save_picture(map_slices({name: one}), folder / f"state_{number:02d}.png")
        for number, (name, one) in enumerate(slices.items())
    )
    v, cluster = arrays["v"].astype(float), arrays["cluster"].astype(int)
    if v.shape[1] == 1:
        figure = latent_histogram(v[:, 0], "volume PC 1")
    else:
        plane = v[:, :2]
        at = plane[np.searchsorted(arrays["row"], centers)]
        figure = latent_by_label(plane, cluster, ("volume PC 1", "volume PC 2"), at, what="state")
    densities = []
    for path in sorted(layout.root.glob("density_pc*.npz")):
        surface, components = read_surface(path)
        drawn = density_and_energy(surface, [f"volume PC {number}" for number in components])
        densities.append(save_picture(drawn, folder / f"{path.stem}.png"))
    some = dict(list(slices.items())[:MOST_MAPS])
    return LandscapePictures(
        save_picture(figure, folder / "particles.png"),
        tuple(densities),
        save_picture(map_slices(some), folder / "states.png"),
        each,
    )


def draw_selection(z: NDArray[np.floating], label: NDArray[np.integer], folder: Path) -> Path:
    """Draw latents (N, q) coloured by the group that each particle was selected into; ``label`` (N,) from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    if z.shape[1] == 1:
        figure = latent_histogram(z[:, 0], "latent 1")
    else:
        figure = latent_by_label(principal_components(z).projections[:, :2], label, ("PC 1", "PC 2"), what="group")
    return save_picture(figure, folder / "selection.png")


def save_picture(figure: Figure, path: Path) -> Path:
    """Save a figure as png; returns the path."""
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path
