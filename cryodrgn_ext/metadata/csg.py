""".csg files: which columns of which .cs files make up one result group of a CryoSPARC job.

``created``, ``group`` {description, name, title, type}, ``results`` {slot: {metafile, num_items, type}}, ``version``,
as YAML. A metafile that begins with ``>`` is relative to the directory of the .csg. CryoSPARC's "Import Result Group"
takes such a file together with the .cs files that it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.errors import InputError, looked_in
from cryodrgn_ext.metadata.cs import CsTable, joined, read_cs

# The version that is written into files; it says which layout they have, not who wrote them.
LAYOUT_VERSION = "v4.0.0"
# The slot that decides which particles there are and in which order, best first.
_LEADING_SLOTS = ("alignments3D", "alignments3D_multi", "alignments_class_0", "alignments2D", "blob")


@dataclass(frozen=True)
class CsgResult:
    """One slot of a result group.

    Attributes
    ----------
    metafile : str
        As written, such as ``>J24_particles.cs``.
    num_items : int
        Rows of that file.
    type : str
        Such as ``particle.blob``.
    """

    metafile: str
    num_items: int
    type: str


@dataclass(frozen=True)
class CsGroup:
    """A result group.

    Attributes
    ----------
    path : Path
    name, title, type, description : str
        Of the group; ``type`` is "particle" for particles.
    results : dict of str to CsgResult
        By slot (``blob``, ``ctf``, ...).
    created, version : str
    """

    path: Path
    name: str
    title: str
    type: str
    description: str
    results: dict[str, CsgResult]
    created: str = ""
    version: str = ""

    def metafile_path(self, slot: str) -> Path:
        """Path of the .cs file of a slot; InputError when it does not exist."""
        written = self.results[slot].metafile
        name = written.removeprefix(">")
        # Without ">" paths are relative to the project, the directory above the job's.
        parents = [self.path.parent] if written.startswith(">") else [self.path.parent.parent, self.path.parent]
        for parent in parents:
            if (parent / name).is_file():
                return parent / name
        raise InputError(f"{self.path}: names the file {written} for {slot}, but {parents[0] / name} does not exist")


def read_csg(path: str | Path) -> CsGroup:
    """Read a .csg file.

    Raises
    ------
    InputError
        When it is missing, no YAML, or lacks a part.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: this .csg file does not exist{looked_in(path)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as a .csg file ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no .csg file: group and results are expected")
    group, results = content.get("group"), content.get("results")
    if not isinstance(group, dict) or not isinstance(results, dict) or not results:
        raise InputError(f"{path}: is no .csg file: it must have a group, and results with at least one slot")
    return CsGroup(
        path=path,
        name=str(group.get("name", "")),
        title=str(group.get("title", "")),
        type=str(group.get("type", "")),
        description=str(group.get("description", "")),
        results={str(slot): _result(path, str(slot), value) for slot, value in results.items()},
        created=str(content.get("created", "")),
        version=str(content.get("version", "")),
    )


def _result(path: Path, slot: str, value: Any) -> CsgResult:
    if not isinstance(value, dict) or not isinstance(value.get("metafile"), str):
        raise InputError(f"{path}: the slot {slot} names no metafile")
    count = value.get("num_items")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InputError(f"{path}: num_items of the slot {slot} is {count!r}, but a whole number is expected")
    return CsgResult(value["metafile"], count, str(value.get("type", "")))


def read_group_table(group: CsGroup) -> CsTable:
    """Read the .cs files of a group and join their slots by uid.

    The file of the alignments (else of the images) gives the particles and their order.

    Raises
    ------
    InputError
        When a file is missing or has not ``num_items`` rows (a file that only accompanies may have more), a slot has
        no columns in its file, or uids do not match.
    """
    leading = next((slot for slot in _LEADING_SLOTS if slot in group.results), next(iter(group.results)))
    first_path = group.metafile_path(leading)
    files: dict[Path, CsTable] = {}
    for slot, result in group.results.items():
        path = group.metafile_path(slot)
        table = files.setdefault(path, read_cs(path)) if path not in files else files[path]
        # Several groups may share a passthrough file, which then has more rows; the join by uid takes the right ones.
        if result.num_items > table.n_rows or (path == first_path and result.num_items < table.n_rows):
            raise InputError(
                f"{group.path}: says that {slot} has {result.num_items} items, but {path} has {table.n_rows} rows"
            )
        if not any(field.startswith(slot + "/") for field in table.columns):
            raise InputError(f"{group.path}: names {path} for {slot}, but that file has no field {slot}/...")
    first = files[first_path]
    elsewhere = {slot for slot in group.results if files[group.metafile_path(slot)] is not first}
    own = {field: one for field, one in first.columns.items() if field.split("/")[0] not in elsewhere}
    table = CsTable(first.path, own)
    for slot in group.results:
        if slot in elsewhere:
            table = joined(table, files[group.metafile_path(slot)], slot)
    return table


def write_csg(
    path: str | Path,
    metafile: str | Path,
    fields: Sequence[str],
    n: int,
    *,
    name: str = "particles",
    title: str = "Particles",
    description: str = "",
) -> None:
    """Write the .csg file of particles whose columns are all in one .cs file beside it.

    Parameters
    ----------
    path : path-like
        The new .csg file.
    metafile : path-like
        The .cs file, in the same directory.
    fields : sequence of str
        Its fields; every slot (the part before the slash) becomes a result.
    n : int
        Its number of rows.
    name, title, description : str
        Of the group.

    Raises
    ------
    InputError
        When the two files are not in one directory, or the file cannot be written; the .cs is then removed, too.
    """
    path, metafile = Path(path), Path(metafile)
    if path.parent.resolve() != metafile.parent.resolve():
        raise InputError(f"{path}: must lie beside the file {metafile} that it describes")
    slots = list(dict.fromkeys(field.split("/")[0] for field in fields if "/" in field))
    content = {
        "created": datetime.now(UTC).replace(tzinfo=None),
        "group": {"description": description, "name": name, "title": title, "type": "particle"},
        "results": {
            slot: {"metafile": f">{metafile.name}", "num_items": n, "type": f"particle.{slot}"} for slot in slots
        },
        "version": LAYOUT_VERSION,
    }
    try:
        atomic_write_text(path, yaml.safe_dump(content, default_flow_style=False))
    except OSError as error:
        metafile.unlink(missing_ok=True)  # the two belong together
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
