"""Ten thousand random particle files through subset, both conversions, references and lists: ``--examples N``.

The properties are those of ``tests/metadata/test_properties.py``, which tries 300; here every run draws other files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the properties; the exit status is that of the tests, which print a failing file in its smallest form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="random files for each property")
    examples = parser.parse_args().examples
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/metadata/test_properties.py",
        "--hypothesis-show-statistics",
    ]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "CDX_PROPERTY_EXAMPLES": str(examples)}, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
