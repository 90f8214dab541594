"Notebook runs: what is done, what is not, and what a killed run leaves behind."

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import LAST, ROOT

from icportrait.bench.runner import run_notebook
from icportrait.bench.recorder import live_output
from icportrait.bench.runs import list_runs, read_status
from icportrait.files import BenchError

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


SLOW = "import time\nfrom pathlib import Path\ntry:\n    for i in range(600): time.sleep(.1); (Path(out)/'alive').write_text(str(i))\nexcept KeyboardInterrupt:\n    time.sleep(1); (Path(out)/'checkpoint').write_text('saved'); raise"


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
        "from pathlib import Path\np = Path(out)/'checkpoint'\nfirst = not p.exists()\np.write_text('x')\nif first: raise OSError(28, 'No space left on device')",
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
    code = "from icportrait.bench.recorder import live_output; from icportrait.files import BenchError\ntry: live_output()\nexcept BenchError as e: print(e)"
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
