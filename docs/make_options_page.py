"""Write docs/options.md from the settings of the jobs: ``python docs/make_options_page.py``."""

from __future__ import annotations

from pathlib import Path

from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.setting_field import SettingField
from cryodrgn_ext.settings import describe, text_of

PAGE = Path(__file__).with_name("options.md")
HEAD = """# Options

Generated from the settings of the jobs by `python docs/make_options_page.py`. The options have the same names, meanings
and defaults on the command line (`--zdim 4`), in the parameter fields of RELION's External job (`zdim` and `4`) and in
`job.yaml`. An option without a value takes its default.
"""


def option_row(field: SettingField) -> str:
    """One row of the table."""
    default = "**required**" if field.required else f"`{text_of(field)}`" if text_of(field) else ""
    return f"| `--{field.name}` | {default} | {field.describe().replace('|', chr(92) + '|')} |"


def page() -> str:
    """Text of the whole page."""
    parts = [HEAD]
    for job in JOBS.values():
        runs = f" In RELION: `{job.relion_program}`." if job.relion_program else ""
        parts += [f"## cryodrgn-ext {job.name}\n", f"{job.summary}{runs}\n"]
        parts += ["| option | default | meaning |", "|---|---|---|"]
        parts += [option_row(field) for field in describe(job.settings_class)]
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
