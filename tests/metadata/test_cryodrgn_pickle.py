from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryodrgn_pickle import (
    read_ctf,
    read_indices,
    read_latents,
    read_pickled_arrays,
    read_poses,
    write_ctf,
    write_indices,
    write_latents,
    write_poses,
)
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.poses import rotation_from_euler
from tests.metadata.conftest import StarBuilder

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(4, dtype=">i4"),
    np.array([True, False]),
    np.array(["stack.mrcs", "b"]),
    np.array([b"x"]),
    np.arange(3, dtype=np.uint8),
    np.zeros((0, 3)),
    np.array([1.5], np.float16),
    np.array([1 + 2j], np.complex64),
]


def put(path: Path, *values: object, protocol: int = 4) -> Path:
    with open(path, "wb") as handle:
        for value in values:
            pickle.dump(value, handle, protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_arrays_of_every_protocol(array: np.ndarray, protocol: int, tmp_path: Path) -> None:
    (found,) = read_pickled_arrays(put(tmp_path / "a.pkl", array, protocol=protocol))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.flags.writeable


@pytest.mark.parametrize("protocol", range(6))
def test_containers_and_numbers(protocol: int, tmp_path: Path) -> None:
    value = {"z": (np.float32(2.5), [1, 2.5, None, True, "text", b"bytes"]), "n": 10**12}
    assert read_pickled_arrays(put(tmp_path / "a.pkl", value, protocol=protocol)) == [value]


@pytest.mark.parametrize(("theirs", "ours"), [(b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")])
def test_names_of_old_and_new_numpy(theirs: bytes, ours: bytes, tmp_path: Path) -> None:
    path = put(tmp_path / "a.pkl", np.arange(5.0), protocol=2)  # protocol 2 names modules in lines of text
    path.write_bytes(path.read_bytes().replace(theirs + b".", ours + b"."))
    np.testing.assert_array_equal(read_pickled_arrays(path)[0], np.arange(5.0))


def test_several_pickles_in_a_file(tmp_path: Path) -> None:
    path = put(tmp_path / "a.pkl", np.arange(3), np.ones((2, 2)), 7)
    first, second, third = read_pickled_arrays(path)
    assert first.tolist() == [0, 1, 2]
    assert second.shape == (2, 2)
    assert third == 7


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def hidden_in_dtype_state() -> bytes:
    return pickle.dumps(np.zeros(2, dtype=[("a", "f4")]), protocol=2)


def persistent() -> bytes:
    class Persistent(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return 1 if value == "here" else None

    buffer = io.BytesIO()
    Persistent(buffer, protocol=2).dump(["here"])
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: [x], lambda x: (np.zeros(3), {"a": x})])
def test_code_is_refused_and_never_run(wrapped: Callable[[object], object], protocol: int, tmp_path: Path) -> None:
    witness = tmp_path / "was_run"
    for number, evil in enumerate(
        [
            Runs(os.system, f"touch {witness}"),
            Runs(eval, f"open({str(witness)!r}, 'w')"),
            Runs(os.mkdir, str(witness)),
            Runs(getattr, "x", "upper"),
            Runs(np.fromfile, str(witness)),
        ]
    ):
        path = put(tmp_path / f"{number}.pkl", wrapped(evil), protocol=protocol)
        with pytest.raises(InputError) as caught:
            read_pickled_arrays(path)
        assert "nothing of it was run" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not witness.exists()


def test_the_same_code_does_run_in_an_ordinary_unpickler(tmp_path: Path) -> None:
    # Otherwise the test above would prove nothing.
    path = put(tmp_path / "a.pkl", Runs(os.mkdir, str(tmp_path / "was_run")))
    pickle.loads(path.read_bytes())
    assert (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.array([1, "a"], object), "arrays of Python objects"),
        (np.zeros(2, [("a", "f4")]), "this pickle holds arrays of"),
        (np.array(["2020-01-01"], "M8[D]"), "arrays of the type 'M8'"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        ({1, 2}, "an object of the type set"),
        (Path("a"), "pathlib.PosixPath"),
        (np.ma.masked_array([1.0], [True]), "this pickle holds numpy.ma"),
        (np.ndarray, "the type of an array without an array"),
        (np.dtype("f4"), "the type of an array without an array"),
        (len, "builtins.len"),
    ],
)
def test_other_objects_are_refused(value: object, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_pickled_arrays(put(tmp_path / "a.pkl", value))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", ["numpy\ndtype", "numpy\nndarray", "numpy._core.multiarray\n_reconstruct"])
def test_names_cannot_be_tampered_with(name: str, tmp_path: Path) -> None:
    # The opcodes of: take the name, give it attributes (b: BUILD), as a state and as the pair that sets attributes.
    for state in (b"}(X\x01\x00\x00\x00aK\x01u", b"N}(X\x09\x00\x00\x00_functionK\x01u\x86"):
        (tmp_path / "a.pkl").write_bytes(b"\x80\x02c" + name.encode() + b"\n" + state + b"b.")
        with pytest.raises(InputError, match="malformed array"):
            read_pickled_arrays(tmp_path / "a.pkl")
    for opcodes in (b")\x81.", b")R."):  # make an instance; call without arguments
        (tmp_path / "a.pkl").write_bytes(b"\x80\x02c" + name.encode() + b"\n" + opcodes)
        with pytest.raises(InputError):
            read_pickled_arrays(tmp_path / "a.pkl")
    array = np.arange(3)
    np.testing.assert_array_equal(read_pickled_arrays(put(tmp_path / "b.pkl", array))[0], array)


def test_references_out_of_the_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(persistent())
    with pytest.raises(InputError, match="references to objects outside the file"):
        read_pickled_arrays(tmp_path / "a.pkl")


def array_with_shape(shape: bytes) -> bytes:
    """Return the pickle of two float64 whose state claims another shape."""
    good = pickle.dumps(np.zeros(2), protocol=2)
    assert good.count(b"K\x02\x85") == 1  # the shape (2,)
    return good.replace(b"K\x02\x85", shape)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80\x04",
        b"\x80\x04N",
        pickle.dumps(np.zeros(100))[:-50],
        b"PK\x03\x04",
        b"\x80\x02(K\x01K\x02e.",
        b"cos\n",
        b"\xff" * 100,
        array_with_shape(b"K\x03\x85"),
        array_with_shape(b"J\xff\xff\xff\xff\x85"),
        array_with_shape(b"U\x01a\x85"),
    ],
)
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pkl: (is no pickle|this pickle holds a malformed array)"):
        read_pickled_arrays(tmp_path / "a.pkl")


def test_every_single_byte_changed_ends_in_an_input_error_or_a_value(tmp_path: Path) -> None:
    good = pickle.dumps((np.arange(4, dtype=np.float32), [1, 2.0]), protocol=2)
    rng = np.random.default_rng(0)
    refused = 0
    for place in range(len(good)):
        for byte in rng.integers(0, 256, 3).tolist():
            (tmp_path / "a.pkl").write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
            try:
                read_pickled_arrays(tmp_path / "a.pkl")
            except InputError:
                refused += 1
    assert refused > len(good)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_pickled_arrays(tmp_path / "a.pkl")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_pickled_arrays(tmp_path)


@pytest.fixture
def particles(star_builder: type[StarBuilder], tmp_path: Path) -> ParticleSet:
    builder = star_builder()
    builder.columns["rlnPhaseShift"] = ["90.0"] * builder.n
    return read_particles(builder.write(tmp_path / "in.star"))


def test_poses_come_back(particles: ParticleSet, tmp_path: Path) -> None:
    write_poses(tmp_path / "poses.pkl", particles)
    rotation, translation = pickle.loads((tmp_path / "poses.pkl").read_bytes())
    assert rotation.dtype == translation.dtype == np.float32
    # The public format has RELION's origin as a fraction of the box.
    origin_A = particles.table.floats("rlnOriginXAngst")
    np.testing.assert_allclose(translation[:, 0], origin_A / (16 * particles.pixel_size_A), rtol=1e-6)
    poses = read_poses(tmp_path / "poses.pkl")
    np.testing.assert_allclose(poses.rotation, particles.rotation, atol=1e-6)
    assert poses.shift_fraction is not None
    box_A = 16 * particles.pixel_size_A[:, None]
    np.testing.assert_allclose(poses.shift_fraction * box_A, particles.shift_A, atol=1e-5)


def test_ctf_comes_back(particles: ParticleSet, tmp_path: Path) -> None:
    write_ctf(tmp_path / "ctf.pkl", particles)
    ctf = read_ctf(tmp_path / "ctf.pkl")
    assert ctf.shape == (8, 9)
    np.testing.assert_allclose(
        ctf[:2, [0, 1, 5, 6, 7, 8]], [[16, 1.25, 300, 2.7, 0.1, 90], [16, 1.3, 200, 2, 0.07, 90]]
    )
    np.testing.assert_allclose(ctf[:, 2], particles.ctf.defocus_u_A, rtol=1e-6)
    np.testing.assert_allclose(ctf[:, 3], particles.ctf.defocus_v_A, rtol=1e-6)
    np.testing.assert_allclose(ctf[:, 4], np.degrees(particles.ctf.defocus_angle_rad), rtol=1e-6)


def test_box_size_must_be_known(star_builder: type[StarBuilder], tmp_path: Path) -> None:
    particles = read_particles(star_builder("3.0").write(tmp_path / "in.star"))
    with pytest.raises(InputError, match="image size of the optics group opticsGroup1 is unknown"):
        write_ctf(tmp_path / "ctf.pkl", particles)


def test_indices_come_back(tmp_path: Path) -> None:
    write_indices(tmp_path / "ind.pkl", [5, 1, 7])
    assert pickle.loads((tmp_path / "ind.pkl").read_bytes()).tolist() == [5, 1, 7]
    assert read_indices(tmp_path / "ind.pkl", n=8).tolist() == [5, 1, 7]
    assert read_indices(put(tmp_path / "list.pkl", [3, 4])).tolist() == [3, 4]
    with pytest.raises(InputError, match=r"the index 7 is outside 0\.\.6"):
        read_indices(tmp_path / "ind.pkl", n=7)


def test_latents_come_back(tmp_path: Path) -> None:
    mean, log_variance = np.random.default_rng(0).normal(size=(2, 10, 3)).astype(np.float32)
    write_latents(tmp_path / "z.pkl", mean, log_variance)
    with open(tmp_path / "z.pkl", "rb") as handle:  # as the public package reads it
        np.testing.assert_array_equal(pickle.load(handle), mean)
        np.testing.assert_array_equal(pickle.load(handle), log_variance)
    found = read_latents(tmp_path / "z.pkl")
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.log_variance, log_variance)
    write_latents(tmp_path / "z.pkl", mean)
    assert read_latents(tmp_path / "z.pkl").log_variance is None


def test_rotations_alone_are_poses(tmp_path: Path) -> None:
    rotation = rotation_from_euler(np.zeros((2, 3)))
    assert read_poses(put(tmp_path / "a.pkl", rotation)).shift_fraction is None


@pytest.mark.parametrize(
    ("read", "value", "complaint"),
    [
        (read_poses, np.zeros((3, 2)), r"holds an array of float64 of the shape \(3, 2\), but rotations of the shape"),
        (read_poses, np.zeros((3, 3, 3)), "entry 1 is no rotation matrix"),
        (read_poses, (np.stack([np.eye(3)] * 2), np.zeros((3, 2))), r"translations of the shape \(2, 2\)"),
        (read_poses, (np.stack([np.eye(3)] * 2), np.full((2, 2), 5.0)), "fractions of the box"),
        (read_poses, (np.stack([np.eye(3)] * 2), np.array([[0, 0], [0, np.nan]])), "entry 2 of the translations"),
        (read_poses, "text", "holds a str"),
        (read_ctf, np.zeros((3, 8)), r"CTF parameters of the shape \(N, 9\)"),
        (read_ctf, np.full((3, 9), np.nan), "entry 1 of the CTF parameters is not finite"),
        (read_indices, np.zeros((2, 2), int), "one-dimensional array of indices"),
        (read_indices, np.zeros(2), "one-dimensional array of indices"),
        (read_indices, [-1], "the index -1"),
        (read_latents, np.zeros(3), r"latent means of the shape \(N, N\)"),
        (read_latents, [1, 2], "holds a list"),
    ],
)
def test_wrong_contents(read: Callable[[Path], object], value: object, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        read(put(tmp_path / "a.pkl", value))
    assert "\n" not in str(caught.value)
