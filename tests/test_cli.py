"The command line in a process of its own: what it says, what it returns, what it leaves."

import json
import os
import resource
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import LAST, ROOT, command, error_line, here
from PIL import Image
from skimage.data import astronaut

from icportrait.flows import read_flo, read_record
from icportrait.model.correspondence import identity_flow

COMMANDS = (
    "demo",
    "run",
    "sweep",
    "runs",
    "compare",
    "clean",
    "results",
    "data",
    "portrait",
    "match",
    "relight",
    "film",
)
DATA_COMMANDS = ("build", "check", "sample", "show")
HELP = """
import sys
from icportrait.cli.main import main
for line in sys.argv[1:]:
    assert main([*line.split(), "--help"]) == 0
print("loaded:", *sorted({"torch", "diffusers", "matplotlib", "numpy", "rich"} & set(sys.modules)))
"""
ENDLESS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{ } loop\n%%EOF\n"


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_help_is_instant():
    "Every command has its help, and no library that takes time is loaded for it."
    lines = ["", *COMMANDS, *(f"data {name}" for name in DATA_COMMANDS)]
    done = subprocess.run([sys.executable, "-c", HELP, *lines], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
    for name in (*COMMANDS, *DATA_COMMANDS):
        assert f"\n  {name} " in done.stdout


def test_help_needs_little_time():
    "Half a second of the processor at most, and twice that for a slow machine."

    def used():
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = used()
    done = command("--help")
    assert done.returncode == 0, done.stderr
    assert used() - before < 1.0


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
        (["match", "none.png", "none.png", "--out", "c.xyz"], 1, "images are not written as '.xyz'"),
        (["portrait", "--profile", "none.png", "--light", "none.png", "--out", "c.fits"], 1, "not written as '.fits'"),
        (["data", "sample", "x.psd"], 1, "images are not written as '.psd'"),
        (["data", "show", "--out", "x.pdf"], 1, "images are not written as '.pdf'"),
        (["data", "build", "x", "--identities", "500000000", "--estimate"], 1, "identities"),
        (["data", "build", "x", "--identities", "1", "--size", "8", "--estimate"], 1, "at least 16 pixels"),
        (["match", "none.png", "none.png", "--out", "c.png", "--device", "abacus"], 1, "none.png: no such file"),
        (["match", "none.png", "none.png", "--out", "c.png", "--crop", "face"], 2, "--crop"),
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
        (lambda p: p.write_text(ENDLESS), "not an image"),
        (lambda p: Image.new("RGB", (1, 1)).save(p), "too small"),
        (lambda p: Image.new("1", (20000, 20000)).save(p), "too large"),
        (lambda p: p.write_bytes(p.with_name("a.png").read_bytes()[:3000]), "damaged"),
    ],
)
def test_bad_images(image, tmp_path, make, says):
    bad = tmp_path / "bad.png"
    make(bad)
    assert says in error_line(here("portrait", "--profile", image, "--light", bad, "--out", tmp_path / "c.png"))
    assert not (tmp_path / "c.png").exists()


def test_bad_base_and_adapter(image, tmp_path):
    (tmp_path / "empty").mkdir()
    error_line(here("match", image, image, "--base", tmp_path / "empty", "--out", tmp_path / "c.png"))
    error_line(here("match", image, image, "--matching", tmp_path / "empty", "--out", tmp_path / "c.png"))
    assert not (tmp_path / "c.png").exists()


def test_device_that_is_not_there(image, tmp_path):
    done = here("match", image, image, "--out", tmp_path / "c.png", "--device", "abacus")
    assert "no device 'abacus' on this machine" in error_line(done)
    assert not (tmp_path / "c.png").exists()


class Same:
    "A pipeline that finds every pixel where it is, and is confident about the left half."

    image_size = 64

    def match(self, profile, target, mask_ratio, generator):
        flow = identity_flow(1, 64)
        return SimpleNamespace(flow=flow, confidence=(flow[:, :1] < 0).float())


@pytest.fixture
def match_same(tmp_path, monkeypatch):
    "A function that matches the astronaut with a part of the same image, which begins at (110, 0)."
    monkeypatch.setattr("icportrait.cli.portraits.open_pipeline", lambda *args: Same())
    Image.fromarray(astronaut()).save(tmp_path / "a.png")
    Image.fromarray(astronaut()[:240, 110:350]).save(tmp_path / "b.png")
    return lambda *options: here("match", tmp_path / "a.png", tmp_path / "b.png", "--out", tmp_path / "m", *options)


def test_match_finds_the_face_in_both(match_same, tmp_path):
    "A line for each image, one for the confidence, and three files that agree."
    pytest.importorskip("cv2")
    done = match_same()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [o.split(":")[0] for o in lines[:2]] == ["profile a.png", "target b.png"]
    assert all("the face at" in o for o in lines[:2])
    assert lines[-1].startswith("50 % of the target's square") and lines[-1].endswith("mean confidence 0.500")
    assert {o.name for o in tmp_path.glob("m.*")} == {"m.png", "m.npz", "m.flo"}
    record = read_record(tmp_path / "m.npz")
    shift = record.profile_xy - record.target_xy
    assert (shift[0] - 110).abs().max() < 8 and shift[1].abs().max() < 8
    assert read_flo(tmp_path / "m.flo").abs().max() < 1e-3 and record.confidence.mean() == 0.5
    width, height = Image.open(tmp_path / "m.png").size
    assert width == 3 * 320 and height > 2 * 320


def test_match_without_opencv(match_same, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    done = match_same()
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines()[:2]:
        assert "the middle square, since" in line and "pip install 'icportrait[opencv]'" in line


def test_match_of_chosen_squares(match_same, tmp_path):
    "The squares that need no detector are exact."
    for crop, said in dict(centre="the middle square", none="the whole image").items():
        done = match_same("--crop", crop)
        assert [o.split(": ")[1] for o in done.stdout.splitlines()[:2]] == [said, said], done.stderr
        record = read_record(tmp_path / "m.npz")
        assert record.profile_map.tolist() == [[8, 0, 3.5], [0, 8, 3.5]]
        assert record.target_map.tolist() == [[3.75, 0, 1.375], [0, 3.75, 1.375]]


def test_match_does_not_start_where_its_flow_cannot_be_written(match_same, tmp_path):
    (tmp_path / "m.flo").mkdir()
    assert "m.flo: is a folder" in error_line(match_same())
    assert not (tmp_path / "m.png").exists()


def test_only_expected_errors_are_one_line(monkeypatch):
    "A fault of ours keeps its traceback."
    import icportrait.bench.results as results

    def fault(name):
        raise ValueError("shapes differ")

    monkeypatch.setattr(results, "read_result", fault)
    with pytest.raises(ValueError, match="shapes differ"):
        here("results", "demo")


def test_out_of_memory(monkeypatch):
    import icportrait.bench.results as results

    def fault(name):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(results, "read_result", fault)
    assert "out of memory; try --half" in error_line(here("results", "demo"))


TERMINALS = [dict(PYTHONIOENCODING="ascii"), dict(COLUMNS="80"), dict(COLUMNS="30")]


@pytest.mark.parametrize("env", TERMINALS, ids=lambda o: "-".join(o.values()))
def test_results_are_readable_in_any_terminal(env):
    "No exception, and every name is whole."
    done = command("results", "base", env=env)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    names = flat_names(json.loads(command("results", "base", "--json").stdout)["figures"])
    wanted = {word for name in names for word in name.split()}
    words = set(done.stdout.split())
    assert wanted and wanted <= words, wanted - words


def flat_names(figures, prefix=""):
    "Dotted names of all figures that a table shows."
    names = set()
    for name, value in figures.items():
        if isinstance(value, dict):
            names |= flat_names(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float, str)):
            names.add(prefix + name)
    return names


@pytest.mark.parametrize("env", TERMINALS, ids=lambda o: "-".join(o.values()))
def test_runs_are_readable_in_any_terminal(experiment, tmp_path, env):
    "Two runs whose names differ in the last letter stay two, and letters of any language do not stop the table."
    notebook = experiment(LAST)
    for name in ("größe-of-a-long-name_learning_rate=0.001", "größe-of-a-long-name_learning_rate=0.002"):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        status = dict(
            state="failed", experiment=notebook.stem, started="2026-01-01T00:00:00", error="東京 is far away"
        )
        (folder / "status.json").write_text(json.dumps(status))
        (folder / "params.yaml").write_text("steps: 1\n")
    done = command("runs", tmp_path / "outputs", env=env)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    for end in ("0.001", "0.002"):
        assert f"e-of-a-long-name_learning_rate={end}" in done.stdout


def test_json_in_any_encoding():
    "What is for machines is JSON wherever it goes."
    plain = command("results", "base", "--json", env=dict(PYTHONIOENCODING="ascii")).stdout
    assert json.loads(plain) == json.loads(command("results", "base", "--json").stdout)


def test_demo_does_not_delete_the_run_of_another_experiment(experiment, tmp_path):
    folder = tmp_path / "r"
    assert here("run", experiment(LAST), "--out", folder).returncode == 0
    before = (folder / "metrics.json").read_bytes()
    assert "holds a run of tiny" in error_line(here("demo", "--fast", "--out", folder))
    assert (folder / "metrics.json").read_bytes() == before


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

    def listen():  # whoever runs the tests in the background has the signal ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def whole_shards():  # not those that are being written
        return [o for o in (tmp_path / "set").glob("*.parquet") if o.name[0] != "."]

    p = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=listen,
    )
    deadline = time.time() + 240
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
