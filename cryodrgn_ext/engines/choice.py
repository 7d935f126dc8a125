"""Which engine suits the settings when the user leaves it open."""

from __future__ import annotations

from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.settings import changed_options, own_options
from cryodrgn_ext.engines.subspace.settings import MOST_COMPONENTS, SubspaceSettings


def choose_engine(name: str, settings: NeuralSettings) -> str:
    """Name of the engine for a job's settings.

    ``auto`` is the subspace engine, unless something is asked for that only a network does: options of the network,
    no latent at all, or more dimensions than the subspace engine takes.

    Parameters
    ----------
    name : str
        As the user gave it.
    settings : NeuralSettings
        A job's settings, which offers the options of the network.
    """
    if name != "auto":
        return name
    shared = own_options(SubspaceSettings)
    network = changed_options(settings, tuple(name for name in own_options(NeuralSettings) if name not in shared))
    return "neural" if not 1 <= settings.zdim <= MOST_COMPONENTS or network else "subspace"
