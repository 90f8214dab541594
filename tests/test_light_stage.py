"What is measured of the light stage, tiny, and kept as a result."

import json
import shutil

import pytest
from conftest import ROOT, command, error_line

TINY = dict(size=32, spp=2, heads=1, views=2, fine_size=32, fine_spp=16, clean_spp=64)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    "The run folder of a tiny measurement, with a data set of two identities and the mannequin."
    from icportrait.dataset.build import build_profiles
    from icportrait.dataset.storage import toy_views

    root = tmp_path_factory.mktemp("light")
    build_profiles(root / "set", [0, 1], 2, 32, render=toy_views, progress=False)
    given = [o for k, v in dict(TINY, data=root / "set").items() for o in ("-p", f"{k}={v}")]
    done = command("run", "measure_light_stage", *given, "--out", root / "run", timeout=900)
    assert done.returncode == 0, done.stderr
    return root


def test_figures(measured):
    "Every figure is there, and in a range that a wrong one would leave."
    m = json.loads((measured / "run" / "metrics.json").read_text())
    assert m["lights"] == 24
    assert m["identities"] == 2
    assert m["views"] == 2 * 2 + 39  # the mannequin has a view from every camera
    shards = (measured / "set").glob("*.parquet")
    assert m["set"]["bytes_per_view"] == round(sum(o.stat().st_size for o in shards) / 43)

    assert set(m["core_seconds"]) == {"meshes", "scene", "tracing", "ground_truth", "encoding"}
    assert 0 < m["core_seconds_per_view"] == pytest.approx(sum(m["core_seconds"].values()), abs=1e-3)
    assert m["megasamples_per_core_second"] > 0

    assert m["linearity_db"] > 18
    assert len(m["environment_db"]) == 5
    assert m["noise_db"]["4"] < m["noise_db"]["8"] < m["noise_db"]["16"]
    assert m["stored_db"]["70"] < m["stored_db"]["90"]
    assert m["stored_bytes"]["70"] < m["stored_bytes"]["90"]

    assert m["pixels"] > 300
    assert 0.4 < m["known"] < 1
    assert m["semantic_error_px"] < 1
    assert 0.8 < m["visibility_agreement"] <= 1
    assert m["visibility_agreement_hair"] < m["visibility_agreement"] < m["visibility_agreement_skin"]
    assert m["albedo_error"] < 0.1


def test_results(measured, tmp_path):
    "`results light-stage` stores the run and prints it."
    (tmp_path / "data" / "results").mkdir(parents=True)
    (tmp_path / "nbs").symlink_to(ROOT / "nbs")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    env = dict(ICPORTRAIT_HOME=str(tmp_path))
    error_line(command("results", "light-stage", "--json", env=env))  # there is none yet
    keep = ("--keep", measured / "run", "--image", "seconds.png")
    stored = command("results", "light-stage", *keep, "--json", env=env)
    assert stored.returncode == 0, stored.stderr
    result = json.loads(stored.stdout)
    assert result["figures"] == json.loads((measured / "run" / "metrics.json").read_text())
    assert "icportrait run measure_light_stage" in result["provenance"]["command"]
    assert (tmp_path / "data" / "results" / "light-stage.jpg").exists()
    assert json.loads(command("results", "light-stage", "--json", env=env).stdout) == result
