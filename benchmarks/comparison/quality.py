"""How good latents and volumes are, by the same measures for all programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from cryodrgn_ext.analysis.agreement import evaluation_particles, moving_region, per_image_fsc_area, predict_truth
from cryodrgn_ext.analysis.cryobench import fsc_auc, information_imbalance, neighbourhood_similarity
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.simulate import GroundTruth

LATENT_FIGURES = (
    "spearman", "r2", "ari", "neighbourhood_similarity_percent", "imbalance_latents_to_truth",
    "imbalance_truth_to_latents",
)  # fmt: skip
STARTS = 10


class Judge:
    """Compares results with the truth of one set.

    Parameters
    ----------
    truth : GroundTruth
    box_size : int
        Of the volumes that are compared.
    count : int
        Number of particles whose volumes are compared, spread evenly over the sorted states.
    """

    def __init__(self, truth: GroundTruth, box_size: int, count: int = 50) -> None:
        self.truth = truth
        self.rows = evaluation_particles(truth.state, count)
        self.states = truth.state[self.rows]
        self._volumes = truth.volumes(box_size)
        self._region = moving_region(self._volumes)

    def latents(self, z: NDArray[np.floating], thorough: bool = True) -> dict[str, float]:
        """Figures of latents (N, q).

        ``spearman`` and ``r2`` of the true coordinates predicted from 50 neighbours (5-fold; mean over coordinates),
        ``ari``: adjusted Rand index of as many k-means clusters as there are states, against the states; and, when
        ``thorough``, CryoBench's metrics of latents.
        """
        truth = self.truth
        found = [predict_truth(z, column) for column in truth.coordinates.T]
        label = KMeans(truth.n_states, n_init=STARTS, random_state=0).fit_predict(np.asarray(z, np.float64))
        figures = {
            "spearman": float(np.mean([f.spearman for f in found])),
            "r2": float(np.mean([f.r2 for f in found])),
            "ari": float(adjusted_rand_score(truth.state, label)),
        }
        if thorough:
            figures["neighbourhood_similarity_percent"] = neighbourhood_similarity(z, truth.coordinates)
            to_truth, from_truth = information_imbalance(z, truth.coordinates)
            figures |= {"imbalance_latents_to_truth": to_truth, "imbalance_truth_to_latents": from_truth}
        return {name: round(value, 4) for name, value in figures.items()}

    def volumes(self, paths: Sequence[Path]) -> dict[str, float]:
        """Figures of the volumes of the particles ``rows``, one map file each.

        ``fsc_area`` and ``fsc_area_moving``: mean over images of the area under the FSC with their own true volumes,
        in the whole box and in the region that moves; ``fsc_area_inner`` and ``fsc_area_inner_moving``: the same of
        shells below D / 2 - 1, where our volumes end and the peer's do not; ``cryobench_fsc_auc``: CryoBench's.
        """
        maps = [read_map(path).data for path in paths]
        inner = len(maps[0]) // 2 - 2

        def area(mask: NDArray[np.floating] | None, shells: int | None) -> float:
            return float(per_image_fsc_area(maps, self._volumes, self.states, mask, shells).mean())

        figures: dict[str, float] = {
            "fsc_area": area(None, None),
            "fsc_area_moving": area(self._region, None),
            "fsc_area_inner": area(None, inner),
            "fsc_area_inner_moving": area(self._region, inner),
            "cryobench_fsc_auc": float(np.mean(
                [fsc_auc(volume, self._volumes[state]) for volume, state in zip(maps, self.states, strict=True)]
            )),
        }  # fmt: skip
        return {name: round(value, 4) for name, value in figures.items()}
