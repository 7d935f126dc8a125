"""Files of a saved model: a description in JSON that names its engine, and tensors; no pickles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from cryodrgn_ext.plain_files import load_json, readable, write_json

DESCRIPTION_FILE = "engine.json"
MODEL_FILE = "model.safetensors"
DAMAGED = "make it again, or restore it from a copy"
MISSING = "give the result directory of a finished job that has learned a model"


def write_description(directory: Path, engine: str, description: Mapping[str, object]) -> None:
    """Write ``engine.json``: which engine made a saved model, and what it needs to read it back."""
    write_json(directory / DESCRIPTION_FILE, {"engine": engine, **description})


def read_description(directory: Path) -> dict[str, Any]:
    """Read ``engine.json`` of a saved model; ``engine`` in it is the name of its engine.

    Raises
    ------
    InputError
        When the directory holds no saved model, or a damaged one.
    """
    path = directory / DESCRIPTION_FILE
    with readable(path, DAMAGED, missing=MISSING):
        description = load_json(path)
        description["engine"] = str(description["engine"])
        return description


@contextmanager
def opened_model(directory: Path) -> Iterator[Path]:
    """Give the path of a saved model's tensors; what is wrong with them is one sentence.

    Raises
    ------
    InputError
        When the file is missing, or what the block reads from it is damaged or of other shapes.
    """
    also = (safetensors.SafetensorError, RuntimeError)
    with readable(f"the model in {directory}", DAMAGED, missing=MISSING, also=also):
        yield directory / MODEL_FILE
