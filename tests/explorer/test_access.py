"""Who is answered: nobody without the secret or under another name, and no path leads out of the result."""

from __future__ import annotations

import io

import pytest

from tests.explorer.conftest import TOKEN, Explorer, Project


@pytest.mark.parametrize(
    "path",
    ["/", "/static/explorer.js", "/api/results", f"/{TOKEN}", f"/{TOKEN}x/", f"/x{TOKEN}/api/results", "/%00/", "//"],
)
def test_nothing_without_the_secret(explorer: Explorer, path: str) -> None:
    answer = explorer.ask("GET", path)
    assert answer.status == 403
    assert b"External" not in answer.body


def test_other_hosts_are_refused(explorer: Explorer) -> None:
    for host in ("example.org", "127.0.0.1.example.org", "localhost.evil:80"):
        assert explorer.ask("GET", f"/{TOKEN}/", host=host).status == 400
    assert explorer.ask("GET", f"/{TOKEN}/", host="localhost:9999").status == 200  # the other end of a tunnel


@pytest.mark.parametrize(
    "path",
    [
        "static/../api.py", "static/%2e%2e/api.py", "static/..%2fapi.py", "static//etc/passwd",
        "api/results/0/maps/../../job.yaml", "api/results/0/maps/..%2f..%2fjob.yaml", "api/results/0/maps//etc/passwd",
        "api/results/0/maps/paths/../0", "api/results/0/maps/paths/a/..%2f..%2fjob.yaml", "api/results/7/columns/z1",
        "api/results/0/columns/..%2fz1",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(explorer: Explorer, path: str) -> None:
    answer = explorer.get(path)
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body
    assert b"settings:" not in answer.body


def test_names_of_selections_lead_nowhere_else(explorer: Explorer, recipe: dict[str, object], project: Project) -> None:
    for name in ("../out", "a/b", "", ".hidden", "x" * 200):
        answer = explorer.post("save", name=name, recipe=recipe)
        assert answer.status == 400
        assert "cannot be the name of a selection" in answer.plain["error"]
    assert not list(project.result.parent.glob("out*"))


def test_answers_are_not_kept_and_scripts_come_from_here(explorer: Explorer) -> None:
    answer = explorer.get("")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "http" not in io.TextIOWrapper(io.BytesIO(answer.body)).read().replace("http-equiv", "")
