"""STAR files whose every table is ours, written by starfile: nothing of a user's has to be kept in them.

Users' own files go through :mod:`cryodrgn_ext.metadata.star`, which says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OLD_VERSION, NEW_VERSION = "30001", "50001"


def own_star_text(tables: Mapping[str, Mapping[str, Any]], version: str = OLD_VERSION) -> str:
    """Text of a STAR file.

    Parameters
    ----------
    tables : mapping
        Name to table. Labels (without ``_``) with lists or arrays (N,) of values make a loop, with single values a list
        of pairs. Floats in loops get six decimals, as RELION writes them.
    version : str
        Of RELION's format, as the comment on top says it.

    Returns
    -------
    str
        The same for the same tables: without starfile's own comment, which has the time in it.
    """
    import pandas
    import starfile

    blocks = {name: pandas.DataFrame(dict(table)) if _is_loop(table) else dict(table) for name, table in tables.items()}
    text = starfile.to_string(blocks, na_rep="nan")
    _, _, text = text.partition("\n")  # starfile's comment
    return f"\n# version {version}\n\n{text.strip()}\n\n"


def _is_loop(table: Mapping[str, Any]) -> bool:
    return any(isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) for values in table.values())
