"""From the explorer into CryoSPARC: a saved selection becomes an External job, by the client as it is and its login."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from cryosparc import auth

from cryodrgn_ext.results.latent_tables import read_latent_table
from cryosparc_jobs import client
from tests.cryosparc_jobs.imitated_project import Lab, QuickJob, run
from tests.cryosparc_master import EMAIL, PASSWORD
from tests.explorer.conftest import running
from tests.explorer.page_in_browser import READY, carry_back, choose, lasso, save, within
from tests.report.browser import Browser

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")


@pytest.fixture
def login_of_programs(real: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login where programs that are started from here look for it."""
    for name in client.ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    store = tmp_path / "config/cryosparc-tools/auth.json"
    store.parent.mkdir(parents=True)
    monkeypatch.setattr(auth, "get_default_auth_config_path", lambda: store)
    hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
    token = real.cs.api.login(grant_type="password", username=EMAIL, password=hashed)
    sessions = auth.InstanceAuthSessions({})
    sessions.insert(real.master.url, EMAIL, token, datetime.now(UTC) + timedelta(days=1))
    sessions.save()


def test_a_selection_becomes_an_external_job(real: Lab, quick: QuickJob, login_of_programs: None) -> None:
    trained = run(real)
    result = trained.result.directory
    z, uid = read_latent_table(result / "latents.npz").z, real.particles["uid"]
    with running(result) as explorer:
        columns = explorer.get("api/results").plain["results"][0]["columns"]
        answers = {one["key"]: explorer.get(f"api/results/0/columns/{quote(one['key'], safe='')}") for one in columns}
        assert {key: len(one.body) for key, one in answers.items()} == dict.fromkeys(answers, 4 * len(z))
        high = float(np.median(z[:, 0]))
        recipe = {"by": "range", "column": "z1", "low": None, "high": high}
        assert explorer.post("save", name="low", recipe=recipe).status == 200
        made = explorer.post("cryosparc", name="low", project=real.project, workspace="W1", job=trained.uid)
    assert made.status == 200, made.plain
    assert f"{real.project}-J3 is completed" in made.plain["message"]
    rows = real.cs.find_job(real.project, "J3").load_output("particles_selected")
    assert rows["uid"].tolist() == uid[z[:, 0] <= np.float32(high)].tolist()
    assert real.state("J3").history == ["building", "running", "completed"]


@pytest.mark.slow
def test_a_lasso_in_the_page_becomes_an_external_job(
    real: Lab, quick: QuickJob, login_of_programs: None, tmp_path: Path
) -> None:
    trained = run(real)
    result = trained.result.directory
    with running(result) as explorer, Browser(1500, 1000, webgl=True) as browser:
        browser.go(explorer.address)
        browser.until(READY)
        choose(browser, ".axis-x", "z1")
        choose(browser, ".axis-y", "z2")
        chosen = within(browser, lasso(browser), read_latent_table(result / "latents.npz").z)
        save(browser, "drawn")
        browser.click("details.cryosparc > summary")
        for what, number in (("project", real.project), ("workspace", "W1"), ("job", trained.uid)):
            browser.value(f"document.querySelector('.cs-{what}').value = {number!r}")
        said, wrong = carry_back(browser, ".cs-make")
        assert wrong == ""
        assert f"{real.project}-J3 is completed" in said
        assert f"--result {trained.uid} --selection drawn" in browser.value(
            "document.querySelector('.commands').textContent"
        )
        assert browser.errors == []
        # What cannot be made is said, and nothing of the former job beside it.
        browser.value("document.querySelector('.cs-project').value = '3'")
        said, wrong = carry_back(browser, ".cs-make")
        assert said == ""
        assert "the project of CryoSPARC" in wrong
    rows = real.cs.find_job(real.project, "J3").load_output("particles_selected")
    assert rows["uid"].tolist() == real.particles["uid"][chosen].tolist()
    assert real.state("J3").history == ["building", "running", "completed"]
