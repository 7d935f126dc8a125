"""How this program starts itself: in further processes of a job, and for commands that are run on a user's behalf."""

from __future__ import annotations

import sys
from collections.abc import Sequence

COMMAND = "cryodrgn-ext"
MODULE = "cryodrgn_ext"


def module_command(module: str, *arguments: str) -> list[str]:
    """Command line that runs a module of this very installation, whatever the PATH says.

    Nothing is imported from the working directory (-P): a user's own random.py or types.py may lie there.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def own_command(words: Sequence[str]) -> list[str]:
    """Command line for ``words`` as a user would type them; those of other programs are left as they are."""
    return module_command(MODULE, *words[1:]) if words[0] == COMMAND else list(words)
