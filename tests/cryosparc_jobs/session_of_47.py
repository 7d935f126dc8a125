"""A user's session with cryosparc-tools 4.7, run as a program that says what it got as JSON.

Arguments: base port, project, parent job, and "whole" (train, select, validate, fetch) or "stubborn" (train in the same
directory until it succeeds). The client comes from PYTHONPATH.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import cryosparc_jobs
from cryosparc_jobs import MasterError, lifecycle, running

SETTINGS = {"zdim": 2, "epochs": 1, "states": 2, "volumes": 0, "device": "cpu"}


def main() -> int:
    """Run the session."""
    port, project, parent, what = sys.argv[1:]
    lifecycle.END_PAUSE_S = 0.01
    running.POLL_S = 0.1  # type: ignore[attr-defined]  # where its name is looked up
    cs = cryosparc_jobs.connect(f"http://127.0.0.1:{port}")
    here = {"project": project, "workspace": "W1"}
    errors: list[str] = []
    while True:
        try:
            trained = cryosparc_jobs.train(cs, **here, particles=(parent, "particles"), directory="trained", **SETTINGS)
            break
        except MasterError as error:
            errors.append(str(error))
            if what == "whole" or len(errors) > 5:
                raise
    said = {
        "errors": errors,
        "tools": importlib.metadata.version("cryosparc-tools"),
        "client": type(cs).__module__,
        "has_api": hasattr(cs, "api"),
        "trained": trained.outputs,
        "z": list(trained.latents.z.shape),
    }
    if what == "whole":
        said["kept"] = cryosparc_jobs.select(cs, **here, result=trained.uid, state=(1,)).outputs
        checked = cryosparc_jobs.validate(cs, **here, result=trained.uid, random_subsets=12, device="cpu")
        said["checked"] = checked.outputs
        fetched = cryosparc_jobs.fetch(cs, project=project, particles=parent, path=Path("fetched.cs"))
        said["fetched"] = fetched.n
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
