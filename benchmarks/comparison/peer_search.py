"""Runs in the peer's environment: its pose search on held-out images, timed by itself.

    python peer_search.py REQUEST.json

The request names the stack, the CTF pickle, the first image and the number of images, the model and the numbers of the
search; the answer (``answer``.npz: rotations, shifts in pixels; ``answer``.json: seconds) is written where it says. The
model is a network that the peer's train_nn has trained, or a map, which is sliced by trilinear interpolation of its
Hartley transform, zero-padded twofold: the fastest model that the peer's search could have on a CPU.
"""

import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as functional
from cryodrgn import ctf, dataset, fft, models
from cryodrgn.lattice import Lattice
from cryodrgn.pose_search import PoseSearch
from torch import Tensor


class VoxelModel(torch.nn.Module):
    """The Hartley transform of a map (D, D, D), at points in [-0.5, 0.5]³."""

    def __init__(self, volume: Tensor) -> None:
        super().__init__()
        d = volume.shape[0]
        axis = (torch.arange(d) - d // 2) / (2 * d)
        r = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).sqrt()
        padded = functional.pad(volume / torch.sinc(r) ** 2, [d // 2] * 6)
        grid = torch.empty((2 * d + 1,) * 3)
        grid[:-1, :-1, :-1] = fft.htn_center(padded)
        grid[-1], grid[:, -1], grid[:, :, -1] = grid[0], grid[:, 0], grid[:, :, 0]
        self.grid = torch.nn.Parameter(grid[None, None], requires_grad=False)

    def forward(self, points: Tensor) -> Tensor:
        """Values at points (..., 3): x, y, z."""
        places = 2 * points.reshape(1, 1, 1, -1, 3)
        values = functional.grid_sample(self.grid, places, align_corners=True)
        return values.view(points.shape[:-1])


def main() -> None:
    """Align the images and write poses and time."""
    with open(sys.argv[1], encoding="utf-8") as handle:
        request = json.load(handle)
    rows = np.arange(request["first"], request["first"] + request["count"])
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the generator that the peer draws from
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if request["map"]:
        norm = (0.0, 1.0)
        volume = torch.from_numpy(np.load(request["map"])).float()
        model, lattice = VoxelModel(volume).to(device), Lattice(volume.shape[0] + 1, extent=0.5, device=device)
    else:
        import yaml

        with open(request["config"], encoding="utf-8") as handle:
            config = yaml.safe_load(handle)
        norm = config["dataset_args"]["norm"]
        config["model_args"].setdefault("zdim", 0)  # its loader asks for it, its homogeneous training leaves it out
        model, lattice = models.load_decoder(config, request["weights"], device)
    model.eval()
    data = dataset.ImageDataset(request["stack"], lazy=False, norm=norm, invert_data=True, ind=rows)
    side = lattice.D
    parameters = torch.from_numpy(ctf.load_ctf_for_training(side - 1, request["ctf"])[rows]).float().to(device)
    search = PoseSearch(
        model, lattice, request["k_min"], request["k_max"], t_extent=request["shift_extent_px"],
        t_ngrid=request["shift_count"] / 2 ** request["base_level"],  # it doubles them with every level
        niter=request["refinements"], nkeptposes=request["keep"],
        base_healpy=request["base_level"] + 1, device=device,
    )  # fmt: skip
    images = torch.stack([data[i]["y"].reshape(side, side) for i in range(len(rows))]).to(device)

    def align(part: slice) -> tuple[Tensor, Tensor]:
        chosen = parameters[part]
        freqs = lattice.freqs2d.unsqueeze(0).expand(len(chosen), -1, 2) / chosen[:, 0].view(-1, 1, 1)
        transfer = ctf.compute_ctf(freqs, *torch.split(chosen[:, 1:], 1, 1)).view(len(chosen), side, side)
        with torch.no_grad():
            rotation, moved, _ = search.opt_theta_trans(images[part], ctf_i=transfer)
        return rotation.cpu(), -moved.reshape(-1, 2).cpu()

    align(slice(0, 2))  # whatever is set up on first use
    start, processors = time.monotonic(), time.process_time()
    batch = request["batch"]
    found = [align(slice(i, i + batch)) for i in range(0, len(rows), batch)]
    seconds, processors = time.monotonic() - start, time.process_time() - processors
    rotation, shift = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    np.savez(request["answer"] + ".npz", rotation=rotation, shift_px=shift)
    with open(request["answer"] + ".json", "w", encoding="utf-8") as handle:
        json.dump({"seconds": seconds, "cpu_seconds": processors, "images": len(rows)}, handle)


if __name__ == "__main__":
    main()
