"""What nobody should send, and files that nobody should have left: one sentence, and everything else goes on."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.explorer import api
from cryodrgn_ext.explorer.again import why_not
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.scores import FILE_NAME
from cryodrgn_ext.results.record import require_record
from tests.explorer.conftest import TOKEN, Explorer, N, Project, running


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"\xff\xfe", b"{", b"{}", b"[" * 100_000, b'{"recipe": ' * 50_000, b'{"recipe": NaN}',
        b'{"recipe": {"by": "positions", "positions": [1e400]}}', b'{"recipe": {"by": ["all"]}}',
        b'{"recipe": {"by": "nearest", "z": [1e400, 0, 0], "count": 2}}', b'{"recipe": {"by": "positions"}}',
        b'{"recipe": {"by": "saved", "name": {"a": 1}}}', b'{"recipe": {"by": "levels", "column": [], "levels": [1]}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", ["choose", "save", "reconstruct", "gallery", "path", "near", "point", "paint"])
def test_what_is_no_request_is_one_sentence(explorer: Explorer, body: bytes, what: str) -> None:
    answer = explorer.ask("POST", f"/{TOKEN}/api/results/0/{what}", body)
    assert answer.status == 400
    assert "\n" not in answer.plain["error"].strip()
    assert len(answer.plain["error"]) < 1000


@pytest.mark.parametrize("number", ["Infinity", "-1", "1e300", str(2**70), "NaN", "[]", '"x"', "null", "{}"])
def test_numbers_that_are_none_are_one_sentence(explorer: Explorer, number: str) -> None:
    for what, asked in (
        ("point", "position"), ("component", "component"), ("gallery", "positions"), ("generated", "z"),
    ):  # fmt: skip
        for value in (number, f"[{number}]"):
            body = f'{{"{asked}": {value}}}'.encode()
            assert explorer.ask("POST", f"/{TOKEN}/api/results/0/{what}", body).status == 400, (what, value)
    body = f'{{"z": [0, 0, 0], "count": {number}}}'.encode()
    assert explorer.ask("POST", f"/{TOKEN}/api/results/0/near", body).status == 400


def test_what_is_too_large_is_not_read(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "LARGEST_REQUEST", 1 << 20)
    head = f"POST /{TOKEN}/api/results/0/choose HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
    for more in ("content-length: 99999999999\r\n\r\n", "transfer-encoding: chunked\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", explorer.port), timeout=20) as connection:
            connection.sendall((head + more).encode())
            if "chunked" in more:  # that says nothing beforehand
                for _ in range(17):
                    connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400")
    assert explorer.post("choose", recipe={"by": "all"}).plain["n"] == N


def test_who_goes_away_in_mid_request_leaves_it_running(
    explorer: Explorer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"recipe": {"by": "all"}, "name": "all"})
    for sent in (len(body) // 2, len(body)):
        with socket.create_connection(("127.0.0.1", explorer.port), timeout=20) as connection:
            connection.sendall(
                f"POST /{TOKEN}/api/results/0/reconstruct HTTP/1.1\r\nhost: 127.0.0.1\r\n"
                f"content-length: {len(body)}\r\n\r\n{body[:sent]}".encode()
            )
    assert explorer.post("near", z=[0, 0, 0], count=20).status == 200  # nothing is held for ever
    assert "Traceback" not in capfd.readouterr().err + caplog.text


@pytest.fixture
def copied(project: Project, tmp_path: Path) -> Path:
    """The result in a folder with a name of many letters."""
    result = tmp_path / "ein Ordner, größer ≥ 3 Å 'x'" / "train"
    shutil.copytree(project.result, result)
    shutil.rmtree(result / "selections", ignore_errors=True)
    return result


def test_files_that_are_damaged_do_not_bar_the_way_to_the_rest(copied: Path) -> None:
    opened = OpenedResult(copied)
    for name in ("good", "cut", "others", "no_number"):
        opened.save(name, {"by": "nearest", "z": [0, 0, 0], "count": 20}, replace=False)
    folder = copied / "selections"
    (folder / "cut.npz").write_bytes((folder / "cut.npz").read_bytes()[:100])
    for name, changed in (
        ("others", {"uid": np.arange(20, dtype=np.uint64)}),
        ("no_number", {"recipe": '{"low": NaN}'}),
    ):
        with np.load(folder / f"{name}.npz") as table:
            arrays = dict(table)
        np.savez(folder / f"{name}.npz", **{**arrays, **changed})
    (copied / FILE_NAME).write_bytes(b"PK no scores")
    with running(copied) as explorer:
        described = explorer.get("api/results").plain["results"][0]
        listed = {one["name"]: one for one in described["selections"]}
        assert described["path"] == str(copied.resolve())
        assert (listed["good"]["n"], listed["no_number"]["n"]) == (20, 20)
        assert "cut.npz cannot be read" in listed["cut"]["refused"]
        assert "made of other particles" in listed["others"]["refused"]
        assert explorer.post("choose", recipe={"by": "saved", "name": "cut"}).status == 400
        assert explorer.post("particles", name="good", format="star").status == 200
        again = explorer.post("save", name="cut", recipe={"by": "all"}, replace=True).plain  # made anew, as is said
        assert next(one["n"] for one in again["selections"] if one["name"] == "cut") == N
        assert explorer.post("score").status == 200
    assert (copied / "selections/good.star").is_file()


@pytest.mark.parametrize("before", [True, False])
def test_a_result_whose_project_is_gone_says_why_it_is_not_trained_again(copied: Path, before: bool) -> None:
    """It was moved, or a version has written it that did not note where it ran."""
    where = require_record(copied, "train")["project_directory"]
    text = (copied / "job.yaml").read_text()
    line = f"project_directory: {where}"
    assert line in text
    (copied / "job.yaml").write_text(text.replace(line, "project_directory: /no/where" if before else "remark: none"))
    opened = OpenedResult(copied)
    assert "is not there any more: save what is to be kept" in why_not(opened)
