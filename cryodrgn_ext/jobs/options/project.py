"""The setting of every job that reads particles: where the paths of their images begin."""

from __future__ import annotations

PROJECT_HELP = (
    "Project directory, to which the paths of images are relative; if not given, that of the result, or found upward "
    "from the file of particles and in the working directory"
)
