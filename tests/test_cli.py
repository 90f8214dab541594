"The command line in a process of its own: what it says, what it returns, what it leaves."

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import LAST, ROOT, command, error_line, here
from PIL import Image


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_help_is_instant():
    "No deep-learning library is loaded for it."
    code = "import sys; from icportrait.cli.main import main; main(['--help']); sys.exit(bool({'torch','diffusers','matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for name in "demo", "run", "sweep", "runs", "compare", "clean", "results", "data", "portrait", "match", "relight":
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    "args,status,says",
    [
        (["nonsense"], 2, "No such command"),
        (["portrait"], 2, "Missing option"),
        (["demo", "-p", "no_such=1"], 1, "no_such"),
        (["demo", "-p", "steps"], 1, "name=value"),
        (["run", "nowhere.ipynb"], 1, "no such notebook"),
        (["results", "nowhere"], 1, "no result"),
        (["data", "check", "nowhere"], 1, "nowhere"),
        (["data", "show", "nowhere"], 1, "nowhere"),
        (["data", "build", "x", "--identities", "9-3"], 1, "FIRST-END"),
        (["portrait", "--profile", "none.png", "--light", "none.png", "--out", "c.png"], 1, "none.png: no such file"),
        (["match", "none.png", "none.png", "--out", "c.xyz"], 1, "unknown image format"),
    ],
)
def test_one_line(tmp_path, monkeypatch, args, status, says):
    monkeypatch.chdir(tmp_path)
    assert says in error_line(here(*args), status)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "make,says",
    [
        (lambda p: p.write_text("no image"), "not an image"),
        (lambda p: Image.new("RGB", (1, 1)).save(p), "too small"),
        (lambda p: Image.new("1", (20000, 20000)).save(p), "too large"),
        (lambda p: p.write_bytes(p.with_name("a.png").read_bytes()[:3000]), "damaged"),
    ],
)
def test_bad_pictures(picture, tmp_path, make, says):
    bad = tmp_path / "bad.png"
    make(bad)
    assert says in error_line(here("portrait", "--profile", picture, "--light", bad, "--out", tmp_path / "c.png"))
    assert not (tmp_path / "c.png").exists()


def test_bad_base_and_adapter(picture, tmp_path):
    (tmp_path / "empty").mkdir()
    error_line(here("match", picture, picture, "--base", tmp_path / "empty", "--out", tmp_path / "c.png"))
    error_line(here("match", picture, picture, "--matching", tmp_path / "empty", "--out", tmp_path / "c.png"))
    assert not (tmp_path / "c.png").exists()


def test_run_runs_results(experiment, tmp_path):
    done = command("run", experiment(LAST), "-p", "steps=3", "--out", tmp_path / "outputs" / "a", cwd=tmp_path)
    assert done.returncode == 0 and "report.html" in done.stdout, done.stderr
    again = here("run", experiment(LAST), "-p", "steps=3", "--out", tmp_path / "outputs" / "a")
    assert "--replace" in error_line(again)
    rows = json.loads(here("runs", tmp_path / "outputs", "--json").stdout)
    assert [(o["run"], o["state"]) for o in rows] == [("a", "done")]
    assert "steps" in here("run", experiment(LAST), "--show").stdout


def test_home_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("ICPORTRAIT_HOME", str(tmp_path))
    assert "ICPORTRAIT_HOME" in error_line(here("demo", "--out", tmp_path / "demo"))
    assert not (tmp_path / "demo").exists()


def test_closed_pipe(tmp_path):
    "`icportrait runs | head` ends quietly."
    done = subprocess.run(
        f'"{sys.executable}" -c "from icportrait.cli.main import app; app()" runs --json | true',
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX signals")
def test_ctrl_c_while_building_data(tmp_path):
    "The build says that it was interrupted, leaves whole shards only, and the same command goes on."
    line = [
        sys.executable,
        "-c",
        "from icportrait.cli.main import app; app()",
        "data",
        "build",
        str(tmp_path / "set"),
        "--identities",
        "30",
        "--views",
        "1",
        "--size",
        "32",
        "--spp",
        "1",
        "--workers",
        "1",
    ]
    hear = lambda: signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # whoever runs the tests in the background has it ignored
    p = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=hear,
    )
    deadline = time.time() + 240
    whole_shards = lambda: [
        o for o in (tmp_path / "set").glob("*.parquet") if o.name[0] != "."
    ]  # not those that are being written
    while not whole_shards():
        assert p.poll() is None and time.time() < deadline, "no shard was written"
        time.sleep(0.1)
    os.killpg(p.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    _, err = p.communicate(timeout=120)
    assert p.returncode == 130 and "icportrait: interrupted" in err, err
    shards = whole_shards()
    checked = command("data", "check", tmp_path / "set")
    assert shards and checked.returncode == 0, checked.stderr
    whole = shards[0].read_bytes()
    shards[0].write_bytes(whole[: len(whole) // 2])
    assert shards[0].name in error_line(command("data", "check", tmp_path / "set"))
