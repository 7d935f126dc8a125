"""Files of trainings on images with planted states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cryodrgn_ext.plain_files import load_json, readable, write_json
from cryodrgn_ext.validation.planted import Dose, PowerFinding
from cryodrgn_ext.validation.verdict import Conclusion

ADVICE = "delete it and continue the job"


def write_dose(path: Path, conclusions: Sequence[Conclusion], agreement: float) -> None:
    """Keep what was found in one set of images."""
    write_json(path, {"states": [vars(one) for one in conclusions], "agreement": agreement})


def read_power(nothing: Sequence[Path], planted: Mapping[Dose, Sequence[Path]]) -> PowerFinding:
    """Sum up finished sets.

    Parameters
    ----------
    nothing : sequence of Path
        Of images of one structure, see :mod:`.null_table`.
    planted : mapping
        Of each dose.

    Raises
    ------
    InputError
        When a file is damaged.
    """
    every = {Dose(0.0): nothing, **planted}
    return PowerFinding.of({dose: [_read(path) for path in paths] for dose, paths in every.items()})


def _read(path: Path) -> tuple[list[Conclusion], float]:
    with readable(path, ADVICE):
        found = load_json(path)
        return [Conclusion(**one) for one in found["states"]], float(found.get("agreement", 0.0))
