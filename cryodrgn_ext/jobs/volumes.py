"""The job that decodes volumes at given latent positions."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.jobs.options.volumes import VolumesSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout, find_result_directory
from cryodrgn_ext.results.record import fingerprint_file, refuse_other_results, require_record, write_record
from cryodrgn_ext.workflow.job_result import JobResult, Output, OutputKind
from cryodrgn_ext.workflow.threads import use_threads


def volumes(settings: VolumesSettings, monitor: Monitor) -> JobResult:
    """Decode one volume per row of a file of latents.

    Parameters
    ----------
    settings : VolumesSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        vol_000.mrc, vol_001.mrc, ... in ``settings.o``.

    Raises
    ------
    InputError
        When the directory holds no model, or the latents do not fit it.
    """
    use_threads(settings.j)
    directory = find_result_directory(settings.in_result)
    require_record(directory, "train", "abinit")
    model = load_heterogeneity(Layout(directory).model)
    z = read_latents(settings.z, model.z.shape[1])
    refuse_other_results(settings.o, "volumes")
    settings.o.mkdir(parents=True, exist_ok=True)
    paths = write_volumes(model, z, settings.o, monitor)
    inputs = {"z": fingerprint_file(settings.z), "in_result": str(directory)}
    write_record(settings.o, "volumes", "finished", settings, inputs, {"volumes": len(paths)})
    monitor.message(f"{len(paths)} volumes in {settings.o}")
    return JobResult(settings.o, tuple(Output(path, OutputKind.MAP) for path in paths))


def volume_name(number: int) -> str:
    """File name of volume ``number``, vol_000.mrc."""
    return f"vol_{number:03d}.mrc"


def write_volumes(model: Heterogeneity, z: NDArray[np.float32], directory: Path, monitor: Monitor) -> list[Path]:
    """Decode volumes at latents (P, q) into an existing directory, with z_values.txt beside them."""
    paths = []
    for number, volume in enumerate(monitor.track(model.volumes(z), "Decoding volumes", len(z))):
        paths.append(directory / volume_name(number))
        write_map(paths[-1], volume, model.pixel_size_A)
    with atomic_path(directory / "z_values.txt") as temporary:
        np.savetxt(temporary, z, fmt="%.8g")
    return paths


def read_latents(path: Path, zdim: int) -> NDArray[np.float32]:
    """Read latent positions (P, zdim), one row per volume.

    Parameters
    ----------
    path : Path
        ``.npy``, ``.npz`` (the array ``z``, or the only one), or text with blanks or commas between the numbers.
    zdim : int
        Dimensions that the model has.

    Raises
    ------
    InputError
        When the file cannot be read, has another number of columns, or values that are not finite.
    """
    try:
        values = _load(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: a file of latents, one row per volume, was expected.") from None
    except (ValueError, OSError, UnicodeDecodeError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path} cannot be read as a table of numbers ({str(error).splitlines()[0]}).") from None
    if values.dtype.kind not in "fiu":
        raise InputError(f"{path} holds {values.dtype} instead of numbers.")
    if values.ndim == 1:
        # One row, or one column for a one-dimensional latent space.
        values = values[:, None] if zdim == 1 else values[None]
    if values.ndim != 2 or values.shape[1] != zdim or len(values) == 0:
        raise InputError(f"{path} has the shape {values.shape}, but one row of {zdim} latents per volume is needed.")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(f"{path}: row {bad[0] + 1} has a value that is not a finite number.")
    return np.ascontiguousarray(values, np.float32)


def _load(path: Path) -> NDArray[np.generic]:
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            name = "z" if "z" in arrays.files else arrays.files[0] if len(arrays.files) == 1 else None
            if name is None:
                raise ValueError(f"it has no array 'z', only {', '.join(arrays.files)}")
            return np.asarray(arrays[name])
    if path.suffix == ".pkl":
        raise ValueError("pickles are not read; save the latents as .npy or text")
    text = path.read_text(encoding="utf-8").replace(",", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise ValueError("it holds no numbers")
    return np.loadtxt(lines, ndmin=2)
