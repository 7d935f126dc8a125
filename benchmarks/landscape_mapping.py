#!/usr/bin/env python
"""All particles in the space of volume components: exactly, from a few coefficients, by the map phi, by rendering.

    python benchmarks/landscape_mapping.py [--box 64 128] [--particles 20000] [--sketch 500] [--phi-volumes 2000]
                                           [--rendered 200] [--threads N] [--directory DIR]

The models are real ones of their size (a subspace engine's result with 15 features at all frequencies, a neural
engine's coordinate decoder of 256 x 3 nodes), but their numbers are drawn at random: smooth maps, and a spectrum that
falls off as that of a molecule. Latents have 8 dimensions. For each box and model the table says

    basis s       masked rows of the basis and their inner products; for the network, the sketched volumes rendered
    direct s      all particles: by the Gram matrix (subspace), or from the coefficients that are needed (neural)
    phi s         the volumes that phi learns from, rendered, and learning (Zhong 2022, 6.4.2); subspace only
    rendering s   all particles, one volume each
    error         of the direct route, and of phi, against rendering, on --rendered particles: the root mean square
                  difference over the spread of the coordinates

Rendering, and the direct route of the network, are measured on --rendered particles and multiplied. A volume of the
network takes so long that its sketch has at most 64 of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from cryodrgn_ext.analysis.coefficient_mapping import choose_coefficients
from cryodrgn_ext.analysis.sketch import sketch_particles
from cryodrgn_ext.analysis.volume_basis import (
    gram_matrix,
    half_maximum_mask,
    masked_rows,
    volume_basis,
    volume_coordinates,
)
from cryodrgn_ext.analysis.volume_mapping import learn_mapping, map_linear, map_rendered
from cryodrgn_ext.analysis.volume_pca import volume_pca
from cryodrgn_ext.engines.base import Heterogeneity, Linear, Spectral
from cryodrgn_ext.engines.neural.heterogeneity import NeuralHeterogeneity, build_model
from cryodrgn_ext.engines.neural.settings import NeuralSettings, resolve
from cryodrgn_ext.engines.subspace.features import Features, Nodes
from cryodrgn_ext.engines.subspace.grid import ComponentGrid
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.progress import SilentMonitor

T = TypeVar("T")
ZDIM, FEATURES, COMPONENTS = 8, 15, 10
SKETCH_OF_NETWORK = 64
EXTENT_A = 256.0
FALL_OFF = 0.08  # of amplitudes: exp(-this |k|), in cycles per box
FALL_OFF_OF_NETWORK = 0.3  # as the differences of the simulated sets fall off at a box of 64


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Result and seconds."""
    begin = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begin


def latents(n: int) -> np.ndarray:
    """(n, 8) float32: two motions, and noise."""
    rng = np.random.default_rng(0)
    z = 0.1 * rng.normal(size=(n, ZDIM))
    angle = rng.uniform(0, 1.2 * np.pi, n)
    z[:, 0] += np.cos(angle)
    z[:, 1] += np.sin(angle)
    z[:, 2] += 0.5 * rng.uniform(-1, 1, n)
    return z.astype(np.float32)


def ball(box: int) -> np.ndarray:
    """(D, D, D) smooth density of a particle of half the box."""
    axis = (np.arange(box) - box // 2) / box
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    density: np.ndarray = (1 / (1 + np.exp((r - 0.25) * 60))).astype(np.float32)
    return density


def subspace_model(box: int, z: np.ndarray) -> SubspaceHeterogeneity:
    """A result of the subspace engine at all frequencies of a box."""
    radius = box // 2 - 1
    grid = ComponentGrid(box, radius)
    generator = torch.Generator().manual_seed(0)
    fall = torch.exp(-FALL_OFF * grid.norm)[:, None]
    region = ball(box)
    support = torch.from_numpy(region)
    values = torch.stack(
        [
            grid.from_map(grid.to_map(fall * torch.randn(grid.n_voxels, 2, generator=generator)) * support)
            for _ in range(FEATURES + 1)
        ],
        dim=-1,
    )
    x = torch.from_numpy(z).double()
    features = Features.build(Nodes.place(x, 400, 0), 0.35, FEATURES)
    strength = 0.05 * float(np.abs(region).sum()) / float(values.abs().amax())
    return SubspaceHeterogeneity(
        features=features, columns_used=tuple(range(ZDIM)), smoothing=0.01 * torch.eye(ZDIM, dtype=torch.float64),
        radius=radius, values=(values * strength)[..., : features.count + 1].contiguous(), consensus=10 * region,
        particle=np.ones_like(region), moving=region, pixel_size_A=EXTENT_A / box, z=z, z_cov=None, loss_history={},
    )  # fmt: skip


def neural_model(box: int, z: np.ndarray) -> NeuralHeterogeneity:
    """A result of the neural engine's published architecture."""
    radius = box // 2 - 1
    envelope = torch.exp(-FALL_OFF_OF_NETWORK * 64 / box * torch.arange(radius + 1.0)) * box**1.5
    settings = NeuralSettings(architecture="vae", latents="table", zdim=ZDIM, dec_dim=256, dec_layers=3)
    recipe = resolve(settings, 0, len(z))
    model = build_model(recipe, box, envelope, 0)
    return NeuralHeterogeneity(
        model=model.eval(), recipe=recipe, box_size=box, pixel_size_A=EXTENT_A / box, train_radius=radius, n_encoder=0,
        consensus=10 * ball(box), z=z, z_cov=None, loss_history={},
    )  # fmt: skip


def differ(mapped: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square difference over the spread."""
    return float(np.linalg.norm(mapped - exact) / np.linalg.norm(exact - exact.mean(axis=0)))


def measure(model: Heterogeneity, given: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """All routes on one model."""
    z, monitor = np.asarray(model.z), SilentMonitor()
    coordinates = volume_coordinates(model, z) if isinstance(model, Linear) else z
    n_sketch = given.sketch if isinstance(model, Linear) else min(given.sketch, SKETCH_OF_NETWORK)
    index = sketch_particles(coordinates, n_sketch).index
    mask = half_maximum_mask(model.volumes(z[index[:20]])) | (ball(model.box_size) > 0.5)
    basis = volume_basis(model, z[index])
    rows, basis_s = timed(lambda: masked_rows(basis, mask, directory / "rows.npy", monitor))
    (gram, _), gram_s = timed(lambda: gram_matrix(rows))
    pca = volume_pca(gram, basis.sketch_weights).first(COMPONENTS)
    sample = np.random.default_rng(1).choice(len(z), given.rendered, replace=False)
    exact, rendered_s = timed(lambda: map_rendered(model, rows, mask, pca, z[sample]))
    line = {
        "voxels in the mask": int(mask.sum()), "basis s": round(basis_s + gram_s, 2),
        "rendering s": round(rendered_s * len(z) / given.rendered, 1),
    }  # fmt: skip
    if isinstance(model, Spectral) and not isinstance(model, Linear):
        form = model.spectral_form()
        found, choice_s = timed(lambda: choose_coefficients(form, rows, mask, pca, z))
        direct, direct_s = timed(lambda: found(form, z[sample]))
        seconds = choice_s + direct_s * len(z) / given.rendered
        return line | {
            "direct s": round(seconds, 1), "direct error": float(f"{differ(direct, exact):.2g}"),
            "coefficients": len(found.points), "of": found.n_all,
        }  # fmt: skip
    direct, direct_s = timed(lambda: map_linear(basis, gram, pca, z))

    def learned() -> np.ndarray:
        rest = np.setdiff1d(np.arange(len(z)), index)
        chosen = np.random.default_rng(0).choice(rest, given.phi_volumes, replace=False)
        v = np.concatenate([map_rendered(model, rows, mask, pca, z[chosen]), pca.coordinates])
        return learn_mapping(np.concatenate([z[chosen], z[index]]), v)(z)

    phi, phi_s = timed(learned)
    return line | {
        "direct s": round(direct_s, 2), "direct error": float(f"{differ(direct[sample], exact):.2g}"),
        "phi s": round(phi_s, 1), "phi error": float(f"{differ(phi[sample], exact):.2g}"),
    }  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--box", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--models", nargs="+", choices=("subspace", "neural"), default=["subspace", "neural"])
    parser.add_argument("--particles", type=int, default=20_000)
    parser.add_argument("--sketch", type=int, default=500)
    parser.add_argument("--phi-volumes", type=int, default=2000)
    parser.add_argument("--rendered", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--directory", type=Path, default=None, help="of a scratch file; a temporary one if omitted")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    z = latents(given.particles)
    table = []
    with tempfile.TemporaryDirectory(dir=given.directory) as scratch:
        for box in given.box:
            for name in given.models:
                model = subspace_model(box, z) if name == "subspace" else neural_model(box, z)
                row = {"box": box, "model": name, **measure(model, given, Path(scratch))}
                print(json.dumps(row), flush=True)
                table.append(row)
    print(json.dumps({"particles": given.particles, "threads": torch.get_num_threads(), "rows": table}, indent=1))


if __name__ == "__main__":
    main()
