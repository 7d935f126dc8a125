"""Draw the README's picture from a finished demo.

::

    .venv/bin/python docs/make_demo_picture.py demo_project docs/images/demo.png

Above, the states as the demo reconstructed them from their original images (projected along the axis about which the
domain turns); below, the latent space coloured by the true angle, the true angles of the particles in each state, and
the FSC between the half-maps of each state.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.metadata.star import read_star
from cryodrgn_ext.simulate import load_truth

COLOURS = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]


def principal_plane(z: np.ndarray) -> np.ndarray:
    """(N, 2) coordinates of latents (N, q) along their two widest directions; zeros where q is 1."""
    centred = z - z.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    return np.pad(centred @ axes.T, ((0, 0), (0, 2 - len(axes))))


def widest_view(maps: list[np.ndarray]) -> int:
    """Axis (of z, y, x) along which projections of the maps differ most from each other."""
    return int(np.argmax([np.var([m.sum(axis) for m in maps], axis=0).sum() for axis in range(3)]))


def draw(project: Path, target: Path) -> None:
    """Read the demo's result in ``project`` and write the picture."""
    result = project / "External/train"
    truth = load_truth(project / "truth.npz")
    angle = truth.coordinates[:, 0]
    z = np.load(result / "latents.npz")["z"]
    label = np.load(result / "states.npz")["label"]
    folders = sorted((result / "states").glob("state[0-9]*"))
    # From the smallest to the largest angle, as the eye expects it; the numbers stay those of the files.
    numbers = sorted(range(len(folders)), key=lambda number: float(np.median(angle[label == number])))
    maps = {number: read_map(folders[number] / "map.mrc") for number in numbers}
    view = widest_view([found.data for found in maps.values()])

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=(1, 1.15))).tolist()
    panels = above.subplots(1, len(numbers))
    margin = next(iter(maps.values())).box_size // 10  # nothing but background
    views = {number: maps[number].data.sum(view)[margin:-margin, margin:-margin] for number in numbers}
    top = max(float(image.max()) for image in views.values())
    for panel, number in zip(np.atleast_1d(panels), numbers, strict=True):
        panel.imshow(views[number], cmap="gray", vmin=0, vmax=top, origin="lower", interpolation="bicubic")
        panel.set_title(f"state {number}: {np.sum(label == number)} particles", color=COLOURS[number % 10], fontsize=11)
        panel.set_axis_off()

    latent, angles, curves = below.subplots(1, 3)
    plane = principal_plane(z)
    drawn = latent.scatter(*plane.T, c=angle, s=3, linewidths=0, cmap="viridis")
    below.colorbar(drawn, ax=latent, label="true angle (degrees)")
    latent.set(xlabel="latent PC 1", ylabel="latent PC 2", title="what the network learned")
    steps = truth.state_coordinates[:, 0]
    stacked = np.zeros(truth.n_states)
    for number in numbers:
        count = np.bincount(truth.state[label == number], minlength=truth.n_states)
        angles.bar(steps, count, width=0.9 * (steps[1] - steps[0]), bottom=stacked, color=COLOURS[number % 10])
        stacked = stacked + count
        (table,) = read_star(folders[number] / "fsc.star").blocks.values()
        fsc = table.floats(next(name for name in table.columns if "FourierShellCorrelation" in name))
        spatial = np.arange(len(fsc)) / (2 * (len(fsc) - 1) * maps[number].pixel_size_A)
        curves.plot(spatial, fsc, color=COLOURS[number % 10])
    angles.set(xlabel="true angle (degrees)", ylabel="particles", title="what the states contain")
    curves.axhline(0.143, color="gray", linewidth=0.8, linestyle="--")
    curves.set(xlabel="spatial frequency (1/Å)", ylabel="half-map FSC", title="the evidence", ylim=(-0.1, 1.03))
    for panel in (latent, angles, curves):
        panel.spines[["top", "right"]].set_visible(False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/make_demo_picture.py DEMO_PROJECT PICTURE.png")
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
