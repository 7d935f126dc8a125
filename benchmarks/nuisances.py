#!/usr/bin/env python
"""Faults of real data times motions: what ``train`` claims of them, in one command.

    python benchmarks/nuisances.py --o DIR [--seeds 0 1 2] [--snr 0.1 0.03 0.01] [--images 2000]
                                   [--only FAULT[:MOTION] ...] [--visible] [--table]

Every fault of ``nuisance_sets/faults.py`` is put into sets of one structure, of an arm that bends by 60 degrees, of a
tenth of the mass that slides by 15 Å, and of a bend by 60 degrees in 3 % of the particles; ``cryodrgn-ext train`` runs
on each. DIR/found.json holds what was found, a row for each set; a run that was stopped continues there. --table prints
the tables of what is there and runs nothing. --visible leaves out sets whose motion exact inference cannot tell.

Printed are: states claimed (proven or likely) in sets of one structure, which are false; states claimed where there is
a motion and how much of its variance the states explain ("found" when any is claimed and they explain three tenths),
beside what exact maps, poses and inference explain; and whether a fault that shows was named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from nuisance_sets.faults import FAULTS, TWO_KINDS
from nuisance_sets.project import write_set
from nuisance_sets.specimen import MOTIONS
from numpy.typing import NDArray

ENOUGH = 0.3  # of the variance of a coordinate
CLAIMS = ("proven", "likely")


@dataclass(frozen=True)
class Cell:
    """One set: a fault, a motion, an SNR and a seed."""

    fault: str
    motion: str
    snr: float
    seed: int


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    """All sets that are asked for, one structure first."""
    for snr in given.snr:
        for seed in given.seeds:
            for motion in MOTIONS:
                for fault in FAULTS:
                    wanted = given.only is None or fault in given.only or f"{fault}:{motion}" in given.only
                    if wanted or f":{motion}" in (given.only or ()):
                        yield Cell(fault, motion, snr, seed)


def variance_explained(label: NDArray[np.integer], coordinate: NDArray[np.float64]) -> float:
    """Share of the variance of a coordinate that lies between states."""
    rows = label >= 0
    label, coordinate = label[rows], coordinate[rows]
    if coordinate.var() == 0:
        return float("nan")
    size = np.maximum(np.bincount(label), 1)
    mean = np.bincount(label, coordinate) / size
    return float(mean[label].var() / coordinate.var())


def run_cell(cell: Cell, images: int, directory: Path, visible: bool = False) -> dict[str, Any]:
    """Make the set, train on it (only where a motion can be seen, if ``visible``), and return what was found."""
    fault, started = FAULTS[cell.fault], time.monotonic()
    coordinate, limit = write_set(directory, fault, cell.motion, images, cell.snr, cell.seed)
    if visible and limit < ENOUGH:
        return {**asdict(cell), "limit": round(limit, 3), "hidden": True}
    command = [sys.executable, "-m", "cryodrgn_ext", "train", "--in_parts", str(directory / "particles.star"), "--o",
               str(directory / "out"), "--volumes", "1", "--j", "1"]  # fmt: skip
    if fault.disc_A:
        command += ["--mask_diameter_A", str(fault.disc_A)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, Any] = {**asdict(cell), "seconds": round(time.monotonic() - started), "limit": round(limit, 3)}
    if ran.returncode:
        return {**found, "failed": (ran.stdout + ran.stderr).strip().splitlines()[-1]}
    record = yaml.safe_load((directory / "out" / "job.yaml").read_text(encoding="utf-8"))
    states = record["results"]["states"]
    conclusions = [one["conclusion"] for one in states]
    with np.load(directory / "out" / "states.npz") as table:
        explained = variance_explained(table["label"], coordinate)
    said = " ".join([ran.stdout, ran.stderr, *conclusions])
    return {
        **found, "conclusions": conclusions, "sizes": [one["particles"] for one in states],
        "evidence": [one["evidence"] for one in states], "explained": round(explained, 3),
        "named": any(word in said for word in fault.named.split("|")) if fault.named else None,
        "resolution_A": record["results"]["consensus_resolution_A"],
        "warnings": [line[:160] for line in said.splitlines() if "arning" in line],
    }  # fmt: skip


def claimed(row: dict[str, Any]) -> int:
    """Number of states that are claimed to be more than an artefact."""
    return sum(one.startswith(CLAIMS) for one in row.get("conclusions", ()))


def tables(rows: list[dict[str, Any]]) -> str:
    """What was found, as text."""
    lines = []
    for snr in sorted({row["snr"] for row in rows}, reverse=True):
        some = [row for row in rows if row["snr"] == snr]
        lines += ["", f"SNR {snr:g}", f"{'':14}" + "".join(f"{motion:>32}" for motion in MOTIONS)]
        for fault in FAULTS:
            entries = [_entry([row for row in some if (row["fault"], row["motion"]) == (fault, motion)])
                       for motion in MOTIONS]  # fmt: skip
            lines.append(f"{fault:14}" + "".join(f"{entry:>32}" for entry in entries))
        lines += _sums(some)
    return "\n".join(lines)


def _entry(rows: list[dict[str, Any]]) -> str:
    """States claimed of all, variance that they explain and that could be, whether the fault was named."""
    if not rows:
        return "-"
    if any("failed" in row for row in rows):
        return "failed"
    seen = [row for row in rows if "hidden" not in row]
    if not seen:
        return f"hidden ({np.mean([row['limit'] for row in rows]):.2f})"
    rows = seen
    states = "+".join(f"{claimed(row)}/{len(row['conclusions'])}" for row in rows)
    if rows[0]["motion"] != "none":
        limit = np.mean([row["limit"] for row in rows])
        states += f" {np.mean([row['explained'] for row in rows]):.2f} of {limit:.2f}"
    named = [row["named"] for row in rows if row["named"] is not None]
    return states + (" named" if named and all(named) else "")


def _sums(rows: list[dict[str, Any]]) -> list[str]:
    """False claims, and shares of what could be found that was."""
    one = [row for row in rows if row["motion"] == "none" and row["fault"] not in TWO_KINDS]
    false = [row for row in one if claimed(row)]
    lines = [f"false claims in {len(false)} of {len(one)} sets of one structure"]
    for motion in MOTIONS[1:]:
        can = [row for row in rows if row["motion"] == motion and not row["limit"] < ENOUGH]
        found = [row for row in can if claimed(row) and row["explained"] >= ENOUGH]
        shown = [row for row in can if claimed(row)]
        lines.append(f"{motion}: claimed in {len(shown)}, found in {len(found)} of {len(can)} sets where it could be")
    return lines


def main() -> None:
    """Run what is not there yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--o", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.03, 0.01])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--only", nargs="+", help="FAULT, FAULT:MOTION or :MOTION")
    parser.add_argument("--visible", action="store_true", help="only motions that exact inference can tell")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    path = given.o / "found.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    done = {Cell(row["fault"], row["motion"], row["snr"], row["seed"]) for row in rows}
    given.o.mkdir(parents=True, exist_ok=True)
    for cell in () if given.table else cells(given):
        if cell in done:
            continue
        with tempfile.TemporaryDirectory(dir=given.o) as work:
            rows.append(run_cell(cell, given.images, Path(work), given.visible))
        print(json.dumps(rows[-1]), flush=True)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    print(tables(rows))


if __name__ == "__main__":
    main()
