"Notebook runs: what is done, what is not, and what a killed run leaves behind."

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import LAST, ROOT, error_line, here

from icportrait.bench.recorder import live_output
from icportrait.bench.runner import run_notebook
from icportrait.bench.runs import list_runs, read_metrics, read_status
from icportrait.files import BenchError, write_json

WHOLE = {"environment.json", "log.txt", "metrics.json", "notebook.ipynb", "params.yaml", "report.html", "status.json"}


def leftovers(folder):
    "Temporary files that an atomic write would leave if it were none."
    return [o for o in Path(folder).rglob("*") if ".tmp" in o.name]


def test_done(experiment, tmp_path):
    folder = run_notebook(experiment("print(steps)", LAST), dict(steps="7"), tmp_path / "run")
    assert {o.name for o in folder.iterdir() if o.name[0] != "."} == WHOLE and not (folder / ".reserve").exists()
    assert json.loads((folder / "metrics.json").read_text()) == {"steps": 7}
    status = read_status(folder)
    assert status["state"] == "done" and status["peak_memory_mb"] > 0 and status["command"].endswith("-p steps=7")
    assert 'details class="code"' in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "code,says",
    [
        ("raise ValueError('no such\\nluck')", "ValueError: no such luck"),
        ("import sys; sys.exit(0)", "with sys.exit"),
        ("import os; os._exit(3)", "died"),
    ],
)
def test_not_done(experiment, tmp_path, code, says):
    with pytest.raises(BenchError) as e:
        run_notebook(experiment("print('first')", code, LAST), {}, tmp_path / "run")
    assert says in str(e.value) and "\n" not in str(e.value)
    assert read_status(tmp_path / "run")["state"] == "failed"
    assert "first" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "metrics.json").exists() and not leftovers(tmp_path)


def test_old_figures_do_not_count(experiment, tmp_path):
    "A run that writes no figures is not done because an earlier attempt wrote some."
    nb = experiment(LAST, "1/0")
    for _ in range(2):
        with pytest.raises(BenchError, match="ZeroDivisionError"):
            run_notebook(nb, {}, tmp_path / "run")
    with pytest.raises(BenchError, match="no metrics.json"):
        run_notebook(experiment("pass"), {}, tmp_path / "run")


@pytest.mark.parametrize(
    "params,says", [({"step": 1}, "did you mean 'steps'"), ({"steps": "x"}, "is int"), ({"out": "x"}, "use --out")]
)
def test_checked_before_anything_starts(experiment, tmp_path, params, says):
    with pytest.raises(BenchError, match=says):
        run_notebook(experiment(LAST), params, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nobodys_files_are_overwritten(experiment, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BenchError, match="not a run folder"):
        run_notebook(experiment(LAST), {}, tmp_path / "mine", replace=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


SLOW = """import time
from pathlib import Path
try:
    for i in range(600):
        time.sleep(.1)
        Path(out, 'alive').write_text(str(i))
except KeyboardInterrupt:
    time.sleep(1)
    Path(out, 'checkpoint').write_text('saved')
    raise"""


def start_slow(experiment, folder):
    "Start a run in a process of its own; return it and the notebook's process once the cell is running."
    line = [
        sys.executable,
        "-c",
        "from icportrait.cli.main import app; app()",
        "run",
        str(experiment(SLOW, LAST)),
        "--out",
        str(folder),
    ]
    p = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.time() + 120
    while not (folder / "alive").exists():
        assert p.poll() is None and time.time() < deadline, p.stderr.read() if p.poll() is not None else "slow"
        time.sleep(0.1)
    kernels = [o for o in psutil.Process(p.pid).children(recursive=True) if "ipykernel" in " ".join(o.cmdline())]
    assert len(kernels) == 1
    assert read_status(folder)["state"] == "running"
    return p, kernels[0]


def wait_gone(process, seconds=30):
    deadline = time.time() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.time() < deadline, "the notebook was left behind"
        time.sleep(0.1)


@pytest.mark.parametrize("sig", ["SIGINT", "SIGTERM"])
def test_interrupted(experiment, tmp_path, sig):
    "The notebook may save, its process ends, and the status tells it."
    p, kernel = start_slow(experiment, tmp_path / "run")
    p.send_signal(getattr(signal, sig))
    _, err = p.communicate(timeout=90)
    assert p.returncode == 130 and "icportrait: interrupted" in err and "Traceback" not in err, err
    wait_gone(kernel)
    assert (tmp_path / "run" / "checkpoint").read_text() == "saved"
    assert read_status(tmp_path / "run")["state"] == "interrupted"
    nbformat.read(tmp_path / "run" / "notebook.ipynb", 4)
    assert not leftovers(tmp_path)


def test_killed(experiment, tmp_path):
    "Nothing can be written after SIGKILL; the reader finds out, and the notebook's process ends by itself."
    p, kernel = start_slow(experiment, tmp_path / "run")
    p.kill()
    p.wait()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "running"
    assert list_runs(tmp_path)[0]["state"] == "interrupted"
    wait_gone(kernel)
    nbformat.read(tmp_path / "run" / "notebook.ipynb", 4)


def test_continued_after_a_kill(experiment, tmp_path):
    "The same run again keeps what is in the folder; other parameters do not."
    nb = experiment(
        """from pathlib import Path
p = Path(out)/'checkpoint'
first = not p.exists()
p.write_text('x')
if first:
    raise OSError(28, 'No space left on device')""",
        LAST,
    )
    with pytest.raises(BenchError, match="No space left"):
        run_notebook(nb, {}, tmp_path / "run")
    with pytest.raises(BenchError, match="other parameters"):
        run_notebook(nb, dict(steps=9), tmp_path / "run")
    assert read_status(run_notebook(nb, {}, tmp_path / "run"))["continued"]
    with pytest.raises(BenchError, match="is done"):
        run_notebook(nb, {}, tmp_path / "run")


def test_folder_by_id(experiment, tmp_path):
    "Without a folder of its own a run is known by its parameters, and is not repeated."
    nb = experiment(LAST)
    folders = [run_notebook(nb, dict(steps=s), root=tmp_path / "outputs") for s in (7, "7", 8)]
    assert folders[0] == folders[1] != folders[2] and [read_status(f)["attempt"] for f in folders] == [1, 1, 1]
    assert read_status(run_notebook(nb, dict(steps=7), root=tmp_path / "outputs", replace=True))["attempt"] == 1
    assert {o.parent for o in folders} == {tmp_path / "outputs" / "tiny"}


def test_live_view_outside_a_notebook(capsys):
    "One error and nothing else, in plain Python as in IPython's terminal, where every update would be another line."
    with pytest.raises(BenchError, match="needs a notebook"):
        live_output()
    assert capsys.readouterr().out == ""
    code = """from icportrait.bench.recorder import live_output
from icportrait.files import BenchError
try: live_output()
except BenchError as e: print(e)"""
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--quick", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.stdout.startswith("a live view needs a notebook") and len(done.stdout.splitlines()) == 1, (
        done.stdout + done.stderr
    )


def test_full_disk(experiment, tmp_path, monkeypatch):
    "The runner's own disk error is one line, and leaves nothing half-written."
    real = nbformat.write

    def full(nb, path, *args, **kwargs):
        real(nb, path, *args, **kwargs)
        if "tiny" not in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    nb = experiment(LAST)
    monkeypatch.setattr(nbformat, "write", full)
    with pytest.raises(BenchError, match="no space left on the disk"):
        run_notebook(nb, {}, tmp_path / "run")
    assert not leftovers(tmp_path) and read_status(tmp_path / "run")["state"] == "failed"


# what an author may write as a default, and what arrives in the notebook
DEFAULTS = {
    "x: dict[str, int] = {'a': 1}": "{'a': 1}",
    "x: tuple[int, int] = (1, 2)": "(1, 2)",
    "x: dict = {1: 'a'}": "{1: 'a'}",
    "x = {1, 2}": "{1, 2}",
    "from typing import Optional\nx: Optional[int] = None": "None",
    "x: list[int | None] = [1, None]": "[1, None]",
    "x = b'x'": "b'x'",
    "import numpy as np\nx: np.int64 = 5": "5",
}
# what may be given on a command line or from Python: annotation and default, value, what arrives
GIVEN = [
    ("x: dict = {1: 'a'}", {2: "b"}, "{2: 'b'}"),
    ("x: dict = {1: 'a'}", "{2: 'b'}", "{2: 'b'}"),
    ("x: tuple[int, int] = (1, 2)", [3, 4], "(3, 4)"),
    ("x: set = {1}", "[2, 2]", "{2}"),
    ("x: bytes = b'x'", "b'y'", "b'y'"),
    ("from typing import Optional\nx: Optional[int] = None", "3", "3"),
    ("x: list[int | None] = [1]", "[None, 2]", "[None, 2]"),
    ("x: str = 'a'", 'it\'s a "{name}"\n\\n', repr('it\'s a "{name}"\n\\n')),
]
ARRIVED = "from icportrait.bench import write_metrics\nwrite_metrics(out, dict(x=repr(x)))"


def arrived(experiment, tmp_path, parameters, given):
    "What a notebook finds in its parameter `x`."
    notebook = experiment(ARRIVED, parameters=f"{parameters}\nout: str = ''")
    return read_metrics(run_notebook(notebook, given, tmp_path / "run"))["x"]


@pytest.mark.parametrize("parameters", DEFAULTS)
def test_own_defaults_arrive(experiment, tmp_path, parameters):
    assert arrived(experiment, tmp_path, parameters, {}) == DEFAULTS[parameters]


@pytest.mark.parametrize("parameters, value, shown", GIVEN)
def test_given_values_arrive(experiment, tmp_path, parameters, value, shown):
    assert arrived(experiment, tmp_path, parameters, dict(x=value)) == shown


@pytest.mark.parametrize(
    "parameters, value",
    [
        ("x: tuple[int, int] = (1, 2)", "(1, 2, 3)"),
        ("x: dict[int, str] = {1: 'a'}", "{'1': 'a'}"),
        ("x: bytes = b'x'", "5"),
        ("x: Odd = 1", "2"),
        ("x: list = []", "[1e999]"),
        ("x: Odd = Path('a')", "2"),
    ],
)
def test_other_values_are_one_line(experiment, tmp_path, parameters, value):
    notebook = experiment(ARRIVED, parameters=f"{parameters}\nout: str = ''")
    said = error_line(here("run", notebook, "-p", f"x={value}", "--out", tmp_path / "run"))
    assert "'x'" in said and not (tmp_path / "run").exists()


def test_integer_keys_are_no_text(experiment, tmp_path):
    "Two values that JSON cannot distinguish are two runs."
    notebook = experiment(ARRIVED, parameters="x: dict = {}\nout: str = ''")
    runs = [run_notebook(notebook, dict(x=x), root=tmp_path / "outputs") for x in ({1: 0}, {"1": 0})]
    assert [read_metrics(o)["x"] for o in runs] == ["{1: 0}", "{'1': 0}"]


def test_braces_in_paths(experiment, tmp_path):
    "papermill would fill them in."
    project = tmp_path / "proj {n}"
    project.mkdir()
    notebook = experiment(LAST).rename(project / "tiny.ipynb")
    assert read_status(run_notebook(notebook, {}, project / "{x}"))["state"] == "done"
    done = here("run", notebook, "--out", tmp_path / "r" / "{steps}")
    assert done.returncode == 0 and (tmp_path / "r" / "{steps}" / "metrics.json").exists(), done.stderr


def test_another_experiments_run_is_not_deleted(experiment, tmp_path):
    "Whatever its state, and whatever the command."
    folder = run_notebook(experiment(LAST, name="mine"), {}, tmp_path / "r")
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert "mine" in error_line(here("demo", "--fast", "--out", folder))
    assert "mine" in error_line(here("run", experiment(LAST, name="other"), "--replace", "--out", folder))
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    write_json(folder / "status.json", read_status(folder) | dict(state="failed"))
    with pytest.raises(BenchError, match="a run of 'mine'"):
        run_notebook(experiment(LAST, name="other"), {}, folder)


def test_trained_anew_is_another_run(experiment, tmp_path):
    "A base with other weights makes other runs under the same name; the same weights in another clone do not."
    parameters = "base: str = ''\nlog: str = ''  # where it is written\nout: str = ''"
    notebook = experiment(
        "from icportrait.bench import write_metrics\nwrite_metrics(out, dict(n=1))", parameters=parameters
    )
    base = tmp_path / "bases" / "mine"
    base.mkdir(parents=True)
    (base / "unet.safetensors").write_bytes(b"trained once")

    def run(**given):
        return run_notebook(notebook, given, root=tmp_path / "outputs")

    first = run(base=str(base))
    os.utime(base / "unet.safetensors", (1, 1))
    assert run(base=str(base)) == first and read_status(first)["attempt"] == 1
    written = run(log=str(base))
    (base / "unet.safetensors").write_bytes(b"trained anew")
    assert run(base=str(base)) != first and run(log=str(base)) == written
    assert first.name.startswith("base=mine-"), "names of runs hold no paths"


def test_idle_threads_spin_shortly(experiment, tmp_path, monkeypatch):
    "In the notebook's process, before it imports anything."
    from icportrait import IDLE_THREADS

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    code = """import os
from icportrait.bench import write_metrics
write_metrics(out, dict(spin_count=os.environ.get('GOMP_SPINCOUNT', '')))"""
    found = read_metrics(run_notebook(experiment(code), {}, tmp_path / "run"))
    assert found["spin_count"] == IDLE_THREADS["GOMP_SPINCOUNT"]


def test_foreign_things_in_run_folders(experiment, tmp_path):
    "Copies, links, other people's files: all commands still say what is there."
    root = tmp_path / "outputs"
    real = run_notebook(experiment(LAST), {}, root=root)
    shutil.copytree(real, root / "tiny" / "a copy {of} it")
    (root / "link").symlink_to(root, target_is_directory=True)
    (root / "loop").symlink_to("loop")
    (root / "nowhere").symlink_to(tmp_path / "gone")
    for name, text in dict(
        list="[1]", deep="[" * 10**5, odd='{"state": "done", "started": 5, "parameters": [1]}'
    ).items():
        (root / name).mkdir()
        (root / name / "status.json").write_text(text)
        (root / name / "params.yaml").write_text("parameters: {day: 2024-13-45, x: !!python/object:os.x {}}")
        (root / name / "metrics.json").write_text('{"steps": Infinity, "curve": [{"step": "x"}, 3]}')
    (root / "folder").mkdir()
    (root / "folder" / "status.json").mkdir()
    (root / "tiny" / "bytes").mkdir()
    (root / "tiny" / "bytes" / "status.json").write_bytes(b"\xff\xfe\x00")
    (real / "metrics.jsonl").mkdir()
    (real / "drawing.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n{ } loop\n")
    os.mkdir(os.fsencode(root / "tiny") + b"/\xe9")
    shutil.copy(real / "status.json", os.fsencode(root / "tiny") + b"/\xe9/status.json")
    assert here("runs", root).returncode == 0
    names = [o["run"] for o in json.loads(here("runs", root, "--json").stdout)]
    assert f"tiny/{real.name}" in names and not [o for o in names if o.startswith("link")]
    (group,) = json.loads(here("compare", root, "-w", "experiment=tiny", "--no-page", "--json").stdout)
    assert group["runs"] == 1, "a copy is no repeat"
    exported = here("compare", root, "--no-page", "--export", tmp_path / "all.csv")
    assert exported.returncode == 0, exported.stderr
    assert here("clean", root, "--checkpoints", "--failed").returncode == 0
    assert read_metrics(real) == dict(steps=5)
