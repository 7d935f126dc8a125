"""Where torch's compiler keeps what it made.

Nothing is compiled by it here, but torch imports it with the first optimiser, and makes its folder then.
"""

from __future__ import annotations

import atexit
import getpass
import os
import re
import shutil
import tempfile
from pathlib import Path

NAME = "TORCHINDUCTOR_CACHE_DIR"


def have_compiler_cache() -> str:
    """Give torch's compiler a folder of this process alone where its own cannot be made; before the first optimiser.

    Returns
    -------
    str
        What to tell the user; empty where nothing was amiss.
    """
    folder = Path(os.environ.get(NAME) or _default())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        private = tempfile.mkdtemp(prefix="cryodrgn_ext_")
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        os.environ[NAME] = private
        return f"{folder}, where torch's compiler keeps files, cannot be made: a temporary folder takes its place."
    return ""


def _default() -> Path:
    """Return the folder that torch takes of itself."""
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):  # a number without a name, as containers have them
        user = f"uid_{os.getuid()}"
    return Path(tempfile.gettempdir()) / ("torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))
