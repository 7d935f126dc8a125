"""The demonstration at a small scale, with the real engine: it recovers the turning angle and says so."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml

from cryodrgn_ext.jobs.demo import demo
from cryodrgn_ext.options.demo import DemoSettings
from cryodrgn_ext.progress import Monitor


@pytest.mark.slow
def test_the_demo_recovers_the_truth_and_says_where_things_are(tmp_path: Path) -> None:
    stream = io.StringIO()
    settings = DemoSettings(o=tmp_path / "demo", particles=600, box=32, snr=0.5, zdim=2, epochs=6, states=2)
    result = demo(settings, Monitor(stream))
    figures = yaml.safe_load((tmp_path / "demo/job.yaml").read_text())["results"]
    assert figures["spearman"] > 0.9
    assert figures["per_image_fsc_area_moving_region"] > figures["consensus_per_image_fsc_area_moving_region"]
    assert figures["consensus_fsc_area_with_true_average"] > 0.5
    said = stream.getvalue()
    assert f"Spearman {figures['spearman']:.3f}" in said
    for name in ("particles.star", "report.html"):
        assert str(result.directory / name) in said
        assert (result.directory / name).is_file()
    for number in range(2):
        assert (result.directory / f"states/state{number:02d}/map.mrc").is_file()
