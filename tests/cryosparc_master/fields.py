"""The columns of each data type of a slot, as exported files show them."""

from __future__ import annotations

Columns = list[tuple[str, str]]

_BLOB: Columns = [("path", "O"), ("idx", "u4"), ("shape", "2u4"), ("psize_A", "f4"), ("sign", "f4"),
                  ("import_sig", "u8")]  # fmt: skip
_MAP: Columns = [("path", "O"), ("shape", "3u4"), ("psize_A", "f4")]
_CTF: Columns = [("type", "O"), ("exp_group_id", "u4"), ("accel_kv", "f4"), ("cs_mm", "f4"), ("amp_contrast", "f4"),
                 ("df1_A", "f4"), ("df2_A", "f4"), ("df_angle_rad", "f4"), ("phase_shift_rad", "f4"),
                 ("scale", "f4"), ("scale_const", "f4"), ("shift_A", "2f4"), ("tilt_A", "2f4"),
                 ("trefoil_A", "2f4"), ("tetra_A", "4f4"), ("anisomag", "4f4"), ("bfactor", "f4")]  # fmt: skip
_LOCATION: Columns = [("micrograph_uid", "u8"), ("exp_group_id", "u4"), ("micrograph_path", "O"),
                      ("micrograph_shape", "2u4"), ("center_x_frac", "f4"), ("center_y_frac", "f4")]  # fmt: skip
_ALIGNMENTS3D: Columns = [("split", "u4"), ("shift", "2f4"), ("pose", "3f4"), ("psize_A", "f4"), ("error", "f4"),
                          ("error_min", "f4"), ("resid_pow", "f4"), ("slice_pow", "f4"), ("image_pow", "f4"),
                          ("cross_cor", "f4"), ("alpha", "f4"), ("alpha_min", "f4"), ("weight", "f4"),
                          ("pose_ess", "f4"), ("shift_ess", "f4"), ("class_posterior", "f4"), ("class", "u4"),
                          ("class_ess", "f4")]  # fmt: skip
_COMPONENTS: Columns = [("component", "u4"), ("value", "f4")]
_BY_DTYPE: dict[str, Columns] = {
    "ctf": _CTF,
    "location": _LOCATION,
    "alignments3D": _ALIGNMENTS3D,
    "components": _COMPONENTS,
}


def columns_of(output_type: str, slot: str, dtype: str) -> Columns:
    """Return (column, dtype) of one slot of an output of this type; KeyError for a data type unknown here."""
    if dtype == "blob":
        columns = _BLOB if output_type == "particle" else _MAP
    elif dtype in ("map", "mask"):
        columns = _MAP
    else:
        columns = _BY_DTYPE[dtype]
    return [(f"{slot}/{name}", kind) for name, kind in columns]
