"""List the names of a project's results: files, arrays of .npz files, keys of job.yaml, stages."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

KEY = re.compile(r"_[0-9a-f]{16}\b")  # folders of a checkpoint that carry a fingerprint


def names_of(directory: Path) -> dict[str, list[str]]:
    """Return the names in a result directory, sorted: ``files``, ``arrays``, ``keys`` and ``stages``."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    record = yaml.safe_load((directory / "job.yaml").read_text())
    journal = directory / "checkpoint/stages.json"
    return {
        "files": sorted(KEY.sub("_KEY", path.relative_to(directory).as_posix()) for path in files),
        "arrays": sorted(
            f"{KEY.sub('_KEY', path.relative_to(directory).as_posix())}: {name}"
            for path in files
            if path.suffix == ".npz"
            for name in _arrays(path)
        ),
        "keys": sorted(set(_keys(record))),
        "stages": list(json.loads(journal.read_text())) if journal.exists() else [],
    }


def _arrays(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as arrays:
        return list(arrays.files)


def _keys(value: Any, above: str = "") -> list[str]:
    """Dotted keys of nested mappings; items of lists share one name."""
    if isinstance(value, dict):
        return [key for name, one in value.items() for key in (f"{above}{name}", *_keys(one, f"{above}{name}."))]
    if isinstance(value, list):
        return [key for one in value for key in _keys(one, above)]
    return []


if __name__ == "__main__":
    project = Path(sys.argv[1])
    found = {path.parent.name: names_of(path.parent) for path in sorted(project.glob("External/*/job.yaml"))}
    print(json.dumps(found, indent=1))
