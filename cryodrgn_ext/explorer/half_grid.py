"""Large maps on half their grid, as the page draws their surfaces: an eighth of the bytes to make, send and draw.

Each voxel is the mean of 2 x 2 x 2. The file has in its header the mean and the standard deviation of the whole map, so
that a contour level in standard deviations is the same on both grids, and lies where the whole map lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.engines.base import LinearForm
from cryodrgn_ext.images.map_origin import Origin, read_origin
from cryodrgn_ext.images.maps import read_map

#: Voxels along the edge of a map up to which it is sent and drawn on its whole grid.
LARGEST_WHOLE = 160


@dataclass(frozen=True)
class HalfMap:
    """A map on half its grid.

    Attributes
    ----------
    data : ndarray
        (D // 2, D // 2, D // 2) float32.
    mean, deviation : float
        Of the whole map.
    """

    data: NDArray[np.float32]
    mean: float
    deviation: float

    def write(self, path: Path, pixel_size_A: float, origin: Origin) -> None:
        """Write it as an MRC file.

        Parameters
        ----------
        path : Path
        pixel_size_A : float
            Of the whole map.
        origin : Origin
        """
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(self.data)
            file.set_volume()
            file.voxel_size = 2 * pixel_size_A
            file.header.origin = (0.5 * pixel_size_A,) * 3  # a mean is that of the middle between two voxels
            file.add_label(origin.label)
            file.header.dmean, file.header.rms = self.mean, self.deviation


def halved(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 x 2 voxels of a map (D, D, D); an odd last plane is left out."""
    n = 2 * (len(data) // 2)
    pairs = data[0:n:2] + data[1:n:2]
    squares = pairs[:, 0:n:2] + pairs[:, 1:n:2]
    means: NDArray[np.float32] = np.multiply(squares[:, :, 0:n:2] + squares[:, :, 1:n:2], 0.125, dtype=np.float32)
    return means


def write_halved(source: Path, path: Path) -> None:
    """Write a map file on half its grid.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    whole = read_map(source)
    mean, deviation = float(whole.data.mean(dtype=np.float64)), float(whole.data.std(dtype=np.float64))
    HalfMap(halved(whole.data), mean, deviation).write(path, whole.pixel_size_A, read_origin(source))


class HalfModel:
    """A model whose volumes are sums of maps, on half its grid: a volume is one product with a small matrix.

    Parameters
    ----------
    form : LinearForm
    """

    def __init__(self, form: LinearForm) -> None:
        self._weights = form.weights
        self._size = form.mean.size
        whole, half = [form.mean.reshape(-1)], [halved(form.mean).reshape(-1)]
        for component in form.components():
            whole.append(component.reshape(-1))
            half.append(halved(component).reshape(-1))
        #: (m + 1, D // 2 cubed): the mean, then the components.
        self._half = np.stack(half)
        self._sums = np.array([part.sum(dtype=np.float64) for part in whole])
        self._products = np.array([[float(a @ b) for b in whole] for a in whole])

    def volume(self, z: NDArray[np.float32]) -> HalfMap:
        """The volume at a latent (q,), with mean and deviation as on the whole grid."""
        weight = np.concatenate([[1.0], self._weights(z[None])[0]])
        edge = round(self._half.shape[1] ** (1 / 3))
        data = (weight.astype(np.float32) @ self._half).reshape(edge, edge, edge)
        mean = float(weight @ self._sums) / self._size
        square = float(weight @ self._products @ weight) / self._size
        return HalfMap(data, mean, max(square - mean**2, 0.0) ** 0.5)
