"""The directory of a training run of the public cryodrgn: which particles, poses, CTF and latents belong together.

Read are config.yaml (or the older config.pkl, if it holds plain values only) and the names of files; nothing is run,
whatever the YAML or the pickles say. Weights (weights.N.pkl) are pickles of torch objects and are not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryodrgn_pickle import read_pickled_arrays

CONFIGURATIONS = ("config.yaml", "out/train-configs.yaml", "train-configs.yaml", "config.pkl")
#: The particles in a directory that export-cryodrgn wrote: the rows of its pickles.
EXPORTED = "particles.star"
_NUMBERED = re.compile(r"\.(\d+)\.pkl$")


class _PlainLoader(yaml.SafeLoader):
    """YAML with everything that is no plain value (numpy scalars, times, paths as objects) read as None."""


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda _loader, _suffix, _node: None)
_PlainLoader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)


@dataclass(frozen=True)
class CryodrgnRun:
    """Files of a run; those that the run does not have are None.

    Attributes
    ----------
    directory : Path
    latents : Path
        z.N.pkl or z.pkl.
    epoch : int or None
        N; None for z.pkl.
    particles : Path or None
        Stack, list of stacks, STAR or .cs that was trained on.
    datadir : Path or None
        What the paths in ``particles`` are relative to.
    poses : Path or None
        Those that the run refined or found where it did, else those that it was given.
    ctf : Path or None
    ind : Path or None
        Which of the particles were trained on.
    notes : tuple of str
        What a user should know of how these were found.
    """

    directory: Path
    latents: Path
    epoch: int | None
    particles: Path | None
    datadir: Path | None
    poses: Path | None
    ctf: Path | None
    ind: Path | None
    notes: tuple[str, ...] = ()


def read_run(directory: Path, epoch: int | None = None) -> CryodrgnRun:
    """Find the files of a run.

    Parameters
    ----------
    directory : Path
    epoch : int, optional
        Which z.N.pkl; the final z.pkl, or the last epoch, when omitted.

    Raises
    ------
    InputError
        When there are no latents of that epoch, or a configuration cannot be read.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory: give the output directory of a cryodrgn run.")
    where = directory / "out" if (directory / "out").is_dir() and not list(directory.glob("z.*pkl")) else directory
    latents, number = _of_epoch(where, "z", epoch)
    if latents is None:
        wanted = "z.pkl or z.N.pkl" if epoch is None else f"z.{epoch}.pkl"
        raise InputError(
            f"{where} has no {wanted}: give the output directory of a run that learned heterogeneity, and an epoch "
            "that it saved."
        )
    values = _configuration(directory)
    bases, notes = _bases(directory), []
    particles, places = _existing(values.get("particles"), bases)
    if len(places) > 1:
        notes.append(
            f"{particles} is taken for the particles of {directory}, although {places[1]} has {values['particles']} "
            "too: give that with --in_parts if it is meant"
        )
    bases = [*places[:1], *bases]  # all were named from one directory
    found = {name: _existing(values.get(name), bases)[0] for name in ("datadir", "poses", "pose", "ctf", "ind")}
    if not values and (exported := directory / EXPORTED).is_file():
        particles = exported
    refined, _ = _of_epoch(where, "pose", number)
    return CryodrgnRun(
        directory=directory,
        latents=latents,
        epoch=number,
        particles=particles,
        datadir=found["datadir"],
        poses=refined or found["poses"] or found["pose"],
        ctf=found["ctf"],
        ind=found["ind"],
        notes=tuple(notes),
    )


def _of_epoch(directory: Path, stem: str, epoch: int | None) -> tuple[Path | None, int | None]:
    """Return the pickle of an epoch (of the end when None), and its number."""
    if epoch is not None:
        path = directory / f"{stem}.{epoch}.pkl"
        return (path, epoch) if path.is_file() else (None, None)
    final = directory / f"{stem}.pkl"
    if final.is_file():
        return final, None
    numbered = {}
    for path in directory.glob(f"{stem}.*.pkl"):
        match = _NUMBERED.search(path.name)
        if match and path.name == f"{stem}.{match[1]}.pkl":
            numbered[int(match[1])] = path
    return (numbered[max(numbered)], max(numbered)) if numbered else (None, None)


def _configuration(directory: Path) -> Mapping[str, Any]:
    """Return the arguments of the data set; empty when the run has no configuration."""
    for name in CONFIGURATIONS:
        path = directory / name
        if not path.is_file():
            continue
        try:
            if path.suffix == ".pkl":
                values = read_pickled_arrays(path)[0]
            else:
                values = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
        except InputError as error:
            raise InputError(
                f"{error}. Give the particles, poses and CTF of the run by their options, and its z.N.pkl as --latents."
            ) from None
        except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from None
        if not isinstance(values, Mapping):
            raise InputError(f"{path} is no configuration of cryodrgn: it holds no names with values.")
        inner = values.get("dataset_args", values)
        return inner if isinstance(inner, Mapping) else {}
    return {}


def _bases(directory: Path) -> list[Path]:
    """Return where a run may have been started, to which the paths of its configuration are relative.

    Its files were given as they are named from there: the working directory where the run lies below it, else the
    run's directory or one of those above it.
    """
    upward = [directory.absolute(), *directory.absolute().parents]
    working = Path.cwd()
    return list(dict.fromkeys([working, *upward] if working in upward else [*upward, working]))


def _existing(value: object, bases: Sequence[Path]) -> tuple[Path | None, tuple[Path, ...]]:
    """Return the path of a configuration, and the bases at which there is one: as it stands where there is none."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value:
        return None, ()
    given = Path(value)
    found = [base for base in bases if not given.is_absolute() and (base / given).exists()]
    distinct = {os.path.realpath(base / given): base for base in reversed(found)}  # the first of each stays
    return (found[0] / given if found else given), tuple(base for base in found if base in distinct.values())
