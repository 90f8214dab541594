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
    matching=("pck10_zero_shot", "pck10_after", "pck10_wide_after", "steps", "seconds"),
    relighting=("psnr", "psnr_copy_input", "ssim"),
    portrait=("identity_rank1", "light_error_deg", "light_error_deg_wrong_light"),
)
FILES = (
    "notebook.ipynb",
    "report.html",
    "portraits.png",
    "correspondence.png",
    "relighting.png",
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
    assert metrics["seconds_total"] > 0 and 0 < metrics["peak_memory_mb"] < 6000
    assert metrics["matching"]["steps"] == 12
    assert metrics["portrait"]["identity_rank1_real"] > 0.6, "the recogniser knows people from true pictures"
    assert metrics["portrait"]["light_error_deg_real"] < metrics["portrait"]["light_error_deg_wrong_light"]
