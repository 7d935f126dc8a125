"""Small pictures of a finished train job, for suites that show images beside results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from cryodrgn_ext.analysis.latents import principal_components
from cryodrgn_ext.analysis.plots import central_slices, latent_by_label, latent_histogram, map_slices
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.layout import Layout
from cryodrgn_ext.jobs.result_tables import read_latent_table, read_state_table

DOTS_PER_INCH = 110


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
        _save(map_slices({name: one}), folder / f"state_{number:02d}.png")
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
        latents = _save(figure, folder / "latents.png")
    return Pictures(latents, _save(map_slices(slices), folder / "states.png"), each)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path
