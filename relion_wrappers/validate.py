"""``cdx-relion-validate``: the validate job as an External job of RELION."""

from __future__ import annotations

import sys

from relion_wrappers.entry_point import open_door


def main() -> int:
    """Console script; returns the exit status."""
    return open_door("validate")


if __name__ == "__main__":
    sys.exit(main())
