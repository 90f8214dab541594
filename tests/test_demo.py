"The main job, in its version of a minute: whole, complete, and able to go on after a kill."

import json
import os
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-c", "from icportrait.cli.main import app; app()", "demo", "--fast"]
FIGURES = dict(
    matching=("steps", "seconds", "pairs"),
    portrait=("rank1", "rank1_ceiling", "light_error_deg", "light_error_deg_constant_light", "psnr", "psnr_head"),
    relighting=("psnr", "psnr_mannequin", "psnr_copy_input", "ssim"),
)
MATCHERS = ("identity", "zero_shot", "dift", "trained")
FILES = (
    "notebook.ipynb",
    "report.html",
    "portraits.png",
    "correspondence.png",
    "relighting.png",
    "film.gif",
    "metrics.json",
    "params.yaml",
    "status.json",
    "adapters/matching/adapter.safetensors",
    "adapters/appearance/adapter.safetensors",
)


def status(folder):
    "What the run says of itself; nothing before it says anything."
    try:
        return json.loads((folder / "status.json").read_text())
    except (OSError, ValueError):
        return {}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    "A fast demo that was killed while it was training, and started again."
    folder = tmp_path_factory.mktemp("demo") / "run"
    command = [*COMMAND, "--out", str(folder)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.time() + 300
    while not (folder / "matching").is_dir() and first.poll() is None and time.time() < end:
        time.sleep(0.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert (folder / "matching").is_dir() and not (folder / "metrics.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    return folder


def test_goes_on_after_a_kill(demo):
    assert status(demo)["state"] == "done" and status(demo)["continued"]


def test_leaves_everything(demo):
    assert [f for f in FILES if not (demo / f).is_file()] == []
    assert not list(demo.rglob("*.tmp*"))


def test_adapters_can_be_used(demo):
    from icportrait.model.pipeline import load_pipeline

    pipe = load_pipeline("small", demo / "adapters" / "matching", demo / "adapters" / "appearance")
    for net in (pipe.matching_net, pipe.appearance):
        learned = [bool(p.abs().max() > 0) for n, p in net.named_trainable().items() if ".lora_B" in n]
        assert sum(learned) > len(learned) / 2, (
            "but for queries and keys of an attention to a single token, all of them start to learn"
        )


def test_measures(demo):
    metrics = json.loads((demo / "metrics.json").read_text())
    for part, names in FIGURES.items():
        for name in names:
            assert isinstance(metrics[part][name], (int, float)), f"{part}.{name}"
    for name in MATCHERS:
        assert 0 <= metrics["matching"][name]["pck@0.05"] <= metrics["matching"][name]["pck@0.1"] <= 1
    assert metrics["seconds_total"] > 0 and 0 < metrics["peak_memory_mb"] < 6000
    assert metrics["matching"]["steps"] == 12
    portrait = metrics["portrait"]
    assert portrait["rank1_ceiling"] > 0.6, "people are recognised in real images"
    assert portrait["light_error_deg_ceiling"] < portrait["light_error_deg_wrong_light"]
    for part in (portrait, metrics["relighting"]):
        for name, (low, high) in part["interval"].items():
            assert low <= part[name] <= high, name
    assert metrics["verdicts"] and set(metrics["verdicts"].values()) <= {"yes", "no", "cannot tell"}


def test_film(demo):
    "One frame before training, one every twenty steps, and one at the end."
    from PIL import Image

    with Image.open(demo / "film.gif") as film:
        assert film.n_frames == 2
