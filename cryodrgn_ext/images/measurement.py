"""Noise and data sign, measured on a sample of the images before all of them are preprocessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.ctf import ctf
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from cryodrgn_ext.images.data_sign import BELIEVED, PURE, MapSign, measure_data_sign, sign_coefficients
from cryodrgn_ext.images.image_table import ImageTable
from cryodrgn_ext.images.noise import NoiseEstimator
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.pipeline import Pipeline, assemble, ctf_parameters
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.progress import Monitor

#: Images of each optics group that the data sign is measured on.
SAMPLE_SIZE = 1000
#: Pixels of them that the noise is measured on: 1000 images of 192 px, fewer of larger ones (at least 150).
NOISE_PIXELS = 1000 * 192**2

#: Images that show how far pixels of a usual image reach, and whether backgrounds are curved.
PEAK_IMAGES = 100


def _sample(table: ImageTable, group: int) -> NDArray[np.int64]:
    """Up to SAMPLE_SIZE rows of a group, spread evenly over the files."""
    rows = np.flatnonzero(table.group == group)
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE_SIZE)).astype(np.int64)]


def _mean_square_ctf(pipeline: Pipeline, particles: NDArray[np.int64], g: int) -> Tensor:
    """(D // 2 + 1,) mean CTF² per shell, never below 0.01: what premultiplication did to the noise power."""
    plane, group = pipeline.geometry.plane, pipeline.geometry.groups[g]
    parameters = ctf_parameters(pipeline.particles).index(torch.from_numpy(particles))
    offset = pipeline.optics[g].gamma_offset
    square = ctf(parameters, plane.kxy, group.pixel_size_A, plane.box_size, offset, pipeline.optics[g].mag_matrix)
    per_frequency = square.double().square().mean(0)
    count = torch.bincount(plane.shell, minlength=plane.box_size // 2 + 1)
    total = torch.bincount(plane.shell, weights=per_frequency, minlength=plane.box_size // 2 + 1)
    return torch.where(count > 0, total / count.clamp_min(1), 1.0).clamp_min(0.01)


def measure(pipeline: Pipeline, chunk_bytes: int, monitor: Monitor) -> dict[str, Any]:
    """Noise sigma per group and the data sign, from a sample of the images."""
    shells = pipeline.geometry.plane.box_size // 2 + 1
    sigma = torch.ones(len(pipeline.groups), shells, dtype=torch.float64)
    window_power = torch.ones(len(pipeline.groups))
    score = weight = 0.0
    volume = MapSign(pipeline.geometry.plane.radius)
    for g, group in enumerate(pipeline.groups):
        rows = _sample(pipeline.table, g)
        if not len(rows):
            continue
        window_power[g] = group.window.square().mean()
        radius = pipeline.settings.background_radius * group.box_size
        pipeline.learn_background(g, rows[:: max(1, len(rows) // PEAK_IMAGES)], chunk_bytes)
        fitted = pipeline.groups[g].background.basis if pipeline.settings.normalise else None
        estimator = NoiseEstimator(group.box_size, radius, group.window, fitted)
        raw, status = [], []
        every = max(1, len(rows) // max(150, NOISE_PIXELS // group.box_size**2))
        low_band = sign_coefficients(pipeline.geometry.plane)
        for chunk in pipeline.chunks(rows, chunk_bytes):
            monitor.poll()
            for _, _, images in pipeline.read(chunk):
                normalised, statistics = pipeline.normalise(g, images)
                status.append(statistics[:, -1])
                usable = (status[-1] == 0).nonzero()[:, 0]
                estimator.add(normalised[usable[::every]])
                raw.append(pipeline.transform(g, normalised, group.sign)[:, :low_band].clone())
        pipeline.refuse_useless(rows, torch.cat(status).numpy())
        power = torch.ones(shells, dtype=torch.float64)
        native = estimator.shell_power()[:shells]
        power[: len(native)] = native
        particle_of_image = np.empty(len(pipeline.table), np.int64)
        particle_of_image[pipeline.table.row_of_particle[::-1]] = np.arange(pipeline.particles.n)[::-1]
        members = particle_of_image[rows]
        if pipeline.optics[g].premultiplied:
            power /= _mean_square_ctf(pipeline, members, g)
        if not pipeline.settings.whiten:
            inside = torch.arange(shells) <= pipeline.geometry.groups[g].max_radius
            area = torch.arange(shells, dtype=torch.float64).clamp_min(1.0) * inside
            power[:] = (power * area).sum() / area.sum()
        sigma[g] = power.sqrt()
        values = torch.cat(raw) / sigma[g].float()[pipeline.geometry.plane.shell[:low_band]]
        sampled = _sample_images(pipeline, values, sigma, window_power, members)
        found = measure_data_sign(sampled)
        volume.add(sampled)
        score += found.score * found.n_images**0.5
        weight += found.n_images
    measured = {
        "outlier_sd": pipeline.outlier_sd,
        "background_order": pipeline.background_order,
        "noise_sigma": sigma.tolist(),
        "window_power": window_power.tolist(),
        "contrast_score": score / max(weight, 1.0) ** 0.5,
        "contrast_purity": volume.purity,
        "contrast_images": int(weight),
    }
    return measured | {"contrast_sign": decide_data_sign(pipeline.settings, measured, monitor)}


def _sample_images(
    pipeline: Pipeline, values: Tensor, sigma: Tensor, window_power: Tensor, members: NDArray[np.int64]
) -> ParticleImages:
    """The sampled images as ParticleImages, one row per image."""
    everything = assemble(
        pipeline,
        ResidentCoefficients(torch.view_as_real(values), _positions(members, pipeline.particles.n)),
        sigma,
        window_power,
    )
    return everything.subset(torch.from_numpy(members))


def _positions(members: NDArray[np.int64], n: int) -> Tensor:
    """(n,) position of each particle in ``members``, 0 for the others (which are never asked for)."""
    out = torch.zeros(n, dtype=torch.int64)
    out[torch.from_numpy(members)] = torch.arange(len(members))
    return out


def decide_data_sign(settings: PreprocessSettings, measured: Mapping[str, Any], monitor: Monitor) -> int:
    """1 when particles are white in the files, -1 when black; says what was found.

    ``measured`` is what :func:`measure` returned, without ``contrast_purity`` in stores of earlier versions.
    """
    score, n_images = measured["contrast_score"], measured["contrast_images"]
    purity = measured.get("contrast_purity", 0.0)
    evidence = f"({abs(score):.0f} standard errors over {n_images} images)"
    found = 0 if abs(score) < BELIEVED else (1 if score > 0 else -1)
    if purity != 0.0:
        evidence = f"(of density in a map of {n_images} images, purity of sign {abs(purity):.2f})"
        found = 0 if abs(purity) < PURE else (1 if purity > 0 else -1)
    look = {1: "white", -1: "black", 0: "unclear"}[found]
    if settings.data_sign == "auto":
        if found == 0:
            monitor.warn(
                f"Contrast: the images do not tell whether particles are white or black {evidence}; taken as white, "
                "RELION's convention. Set the contrast if that is wrong."
            )
        elif found == 1:
            monitor.message(f"Contrast: particles are white {evidence}, as RELION's convention has it.")
        else:
            monitor.warn(
                f"Warning: particles are black in the images {evidence}, against RELION's convention (white, after "
                "extraction with inverted contrast); they are inverted here, so that maps come out white."
            )
        return found or 1
    sign = 1 if settings.data_sign == "white" else -1
    if found == -sign:
        monitor.warn(
            f"Warning: contrast was set to {settings.data_sign}, but the images look {look} {evidence}; "
            "the setting is obeyed, and maps will come out inverted if it is wrong."
        )
    else:
        monitor.message(f"Contrast: {settings.data_sign} as set; the images look {look} {evidence}.")
    return sign
