"""How well a trained model recovers a simulated truth, in figures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.analysis.agreement import (
    evaluation_particles,
    fsc_area,
    moving_region,
    per_image_fsc_area,
    predict_truth,
)
from cryodrgn_ext.engines.base import Heterogeneity
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.simulate import GroundTruth

EVALUATED = 50


def agreement_with_truth(model: Heterogeneity, consensus: NDArray[np.float32], truth: GroundTruth) -> dict[str, float]:
    """Figures of agreement between a model of all particles and the ground truth, by name.

    ``spearman`` and ``r2`` of the first true coordinate predicted from the latents of the 50 nearest neighbours
    (5-fold cross-validated); the area under the FSC of 50 images' own volumes with their true volumes, in the whole
    box and in the moving region; the same for the consensus (D, D, D), and its FSC with the true average.
    """
    prediction = predict_truth(model.z, truth.coordinates[:, 0])
    rows = evaluation_particles(truth.state, EVALUATED)
    true_volumes = truth.volumes(model.box_size)
    region = moving_region(true_volumes)
    volumes = list(model.volumes(model.z[rows]))
    states = truth.state[rows]
    occupancy = np.bincount(truth.state, minlength=truth.n_states) / len(truth.state)
    average = np.tensordot(occupancy, true_volumes, 1).astype(np.float32)
    homogeneous = fsc(torch.from_numpy(consensus), torch.from_numpy(average))

    def area(maps: list[NDArray[np.float32]], mask: NDArray[np.floating] | None) -> float:
        return float(per_image_fsc_area(maps, true_volumes, states, mask).mean())

    return {
        "spearman": round(prediction.spearman, 4),
        "r2": round(prediction.r2, 4),
        "per_image_fsc_area": round(area(volumes, None), 4),
        "per_image_fsc_area_moving_region": round(area(volumes, region), 4),
        "consensus_per_image_fsc_area": round(area([consensus] * len(rows), None), 4),
        "consensus_per_image_fsc_area_moving_region": round(area([consensus] * len(rows), region), 4),
        "consensus_fsc_area_with_true_average": round(fsc_area(homogeneous), 4),
    }
