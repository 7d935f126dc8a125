"""Unfinished files, which atomic writers leave behind when they are killed: found by name, and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def remove_unfinished(directory: Path) -> None:
    """Remove ``.name.xyz.partial*`` files and folders below ``directory``; nothing that ever was a result.

    Errors are ignored: this is tidying up, often after a failure that lies deeper.
    """
    for root, folders, files in os.walk(directory):
        for name in files:
            if _is_partial(name):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(root, name))
        for name in [folder for folder in folders if _is_partial(folder)]:
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
            folders.remove(name)


def _is_partial(name: str) -> bool:
    return name.startswith(".") and ".partial" in name
