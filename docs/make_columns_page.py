"""Write docs/columns.md from the table that the writers use: ``python docs/make_columns_page.py``."""

from __future__ import annotations

from pathlib import Path

from cryodrgn_ext.metadata.column_table import (
    CRYOSPARC_FIELDS,
    RELION_COLUMNS,
    CryosparcField,
    RelionColumn,
    Treatment,
)

PAGE = Path(__file__).with_name("columns.md")
HEAD = """# Columns and fields

Generated from `cryodrgn_ext/metadata/column_table.py` by `python docs/make_columns_page.py`: what becomes of every
column of RELION (3.0 to 5) and of every field of CryoSPARC (2 to 5).

**In the file that you gave.** A subset (`select`, states, `validate`) keeps every column and field, known here or not,
with the characters or values that were read. When poses are written anew (`abinit`, `convert --reference`), a column
that belongs to the old ones is renewed, dropped, or kept and named in the log; the same for a changed defocus or pixel
size.

**In the other suite's file** (`convert`, `--particles_format`). What is converted is in the second column. Everything
else of a `.cs` goes along in columns `cdxCs...` of the STAR file and comes back from there; what of a STAR file a `.cs`
cannot hold is listed as "Not converted", and `convert --reference` takes it from the original file on the way back.
"""
RELION = """## Columns of RELION

All that RELION's programs know for particles and optics (a test asks them); labels of models, jobs and movies are kept
like any unknown column where they stand in a particles table.

| column | in a .cs | new poses | new pixel size | new defocus | note |
|---|---|---|---|---|---|"""
CRYOSPARC = """
## Fields of CryoSPARC

`*` stands for a number or for any name. Fields that are not converted go along in `cdxCs...` columns.

| field | in a STAR file | new poses | note |
|---|---|---|---|"""


def relion_row(column: RelionColumn) -> str:
    """One row of the first table."""
    treatments = (column.pose, column.pixel, column.defocus)
    cells = [f"`{column.label}`", _code(column.field) or "not converted", *map(_shown, treatments), column.note]
    return f"| {' | '.join(cells)} |"


def cryosparc_row(field: CryosparcField) -> str:
    """One row of the second table."""
    target = _code(field.column) or ("not converted" if field.counterpart else "RELION has no column")
    return f"| `{field.name}` | {target} | {_shown(field.pose)} | {field.note} |"


def _code(names: str) -> str:
    return ", ".join(f"`{name.strip()}`" for name in names.split(",")) if names else ""


def _shown(treatment: Treatment) -> str:
    return "" if treatment is Treatment.KEPT else treatment.value


def page() -> str:
    """Text of the whole page."""
    rows = [HEAD, RELION, *map(relion_row, RELION_COLUMNS), CRYOSPARC, *map(cryosparc_row, CRYOSPARC_FIELDS)]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
