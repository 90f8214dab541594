"Sweeps under faults: nothing finished is lost or run twice, nothing is falsely done, no notebook is left behind."

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import nbformat
import psutil
import pytest
from conftest import ROOT, command, error_line, here

from icportrait import bench
from icportrait.bench import identity, recorder, sweeps
from icportrait.bench.compare import compare_runs
from icportrait.bench.executors import run_sweep
from icportrait.bench.housekeeping import prune_checkpoints
from icportrait.bench.machine import process_start_time
from icportrait.bench.processes import end_orphans
from icportrait.bench.runner import run_notebook
from icportrait.bench.runs import list_runs, lock_run, read_metrics, read_status, run_state
from icportrait.bench.sweeps import load_sweep, make_sweep, plan_sweep
from icportrait.files import BenchError, RunLocked, write_json

PARAMETERS = """steps: int = 6  # how many, in [1,1000]
kind: str = 'a'  # one of 'a', 'b'
pause: float = 0.05  # seconds of a step
seed: int = 0
out: str = 'outputs/tiny'"""
# counts up to `steps`, and goes on from where it was; it also notes how often it came to its end
WORK = """import json
import os
import time
from pathlib import Path
state = Path(out, 'checkpoint.json')
temporary = Path(out, '.checkpoint.tmp')
try:
    done = json.loads(state.read_text())
except (OSError, ValueError):
    done = []
while len(done) < steps:
    time.sleep(pause)
    done.append((len(done)*7 + seed*3 + (kind == 'b')) % 11)
    temporary.write_text(json.dumps(done))
    os.replace(temporary, state)"""
LAST = """with open(Path(out).parent.parent/'finished.txt', 'a') as f:
    f.write(Path(out).name + '\\n')
Path(out, 'metrics.json').write_text(json.dumps(dict(total=sum(done), curve=done)))"""
# waits for Ctrl-C, and then takes a while to save; the next time it goes on at once
SAVE = """import time
from pathlib import Path
try:
    Path(out, 'alive').write_text('')
    time.sleep(60 if not Path(out, 'saved').exists() else 0)
except KeyboardInterrupt:
    time.sleep(SECONDS)
    Path(out, 'saved').write_text('')
    raise"""
posix = pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX signals")


@pytest.fixture
def work(experiment, tmp_path):
    "A small experiment that can be continued, and the sweep file of six runs."
    experiment(WORK, LAST, name="work", parameters=PARAMETERS)
    (tmp_path / "work.yaml").write_text("experiment: work.ipynb\ngrid: {kind: [a, b]}\nseeds: 3\n")
    return tmp_path / "work.yaml"


@pytest.fixture
def rng():
    "Random moments; a test that fails shows their seed, and ICPORTRAIT_TEST_SEED gives it again."
    seed = int(os.environ.get("ICPORTRAIT_TEST_SEED", time.time_ns() % 10**6))
    print(f"ICPORTRAIT_TEST_SEED={seed}")
    return random.Random(seed)


started = []


@pytest.fixture(autouse=True)
def nothing_goes_on():
    "What a failed test has started ends with it."
    yield
    while started:
        p = started.pop()
        if p.poll() is None:
            p.kill()
            p.wait()


def start(file, root, *args, stderr=subprocess.PIPE):
    "Start a sweep in a process group of its own, as a terminal does, so that the group hears Ctrl-C."
    line = [
        sys.executable,
        "-c",
        "from icportrait.cli.main import app; app()",
        "sweep",
        str(file),
        "--root",
        str(root),
        *args,
    ]

    def listen():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    started.append(
        subprocess.Popen(
            line,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            preexec_fn=listen,
            start_new_session=True,
        )
    )
    return started[-1]


def ctrl_c(p):
    os.killpg(p.pid, signal.SIGINT)


def until(what, seconds=120, every=0.05):
    "Wait for something, not forever; a machine that is busy otherwise gets more time by ICPORTRAIT_TEST_PATIENCE."
    end = time.monotonic() + seconds * float(os.environ.get("ICPORTRAIT_TEST_PATIENCE", 1))
    while not (found := what()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(every)
    return found


def kernels(root):
    "Notebook processes of runs below a folder."
    res = []
    for p in psutil.process_iter():
        try:
            if p.status() != psutil.STATUS_ZOMBIE and p.environ().get("ICPORTRAIT_RUN", "").startswith(
                str(root.resolve())
            ):
                res.append(p)
        except (psutil.Error, OSError):
            pass
    return res


def table(file, root):
    return {o.id: (run_state(o.folder), read_metrics(o.folder)) for o in plan_sweep(load_sweep(file), root).runs}


def expected(file, root):
    "What an undisturbed sweep gives, computed without running it."
    res = {}
    for o in plan_sweep(load_sweep(file), root).runs:
        p = o.params
        curve = [(i * 7 + p["seed"] * 3 + (p["kind"] == "b")) % 11 for i in range(p["steps"])]
        res[o.id] = "done", dict(total=sum(curve), curve=curve)
    return res


@posix
def test_random_kills(work, tmp_path):
    "The runner and the notebook are killed at random moments; in the end the table is that of an undisturbed sweep."
    root, rng, kills = tmp_path / "outputs", random.Random(5), 0
    while kills < 8:
        p = start(work, root, "--retry-failed")
        time.sleep(rng.uniform(0.8, 4))
        victims = [o for o in kernels(root)] if rng.random() < 0.4 else []
        for o in victims or [psutil.Process(p.pid)]:
            if p.poll() is None:
                o.kill()
                kills += 1
        if victims:
            p.communicate(timeout=200)
        else:
            p.wait(timeout=60)
        until(lambda: not kernels(root), 20)
        finished = {k for k, (state, _) in table(work, root).items() if state == "done"}
        assert all(table(work, root)[k] == v for k, v in expected(work, root).items() if k in finished)
        if len(finished) == 6:
            break
    done = command("sweep", work, "--root", root, "--retry-failed", timeout=400)
    assert done.returncode == 0, done.stderr
    assert table(work, root) == expected(work, root)
    assert kills and not kernels(root) and not [o for o in root.rglob("*.tmp*")]


@posix
def test_finished_runs_are_kept(work, tmp_path):
    "A sweep that is killed in its second half does not repeat its first."
    root = tmp_path / "outputs"
    p = start(work, root)
    until(lambda: (root / "finished.txt").exists() and len((root / "finished.txt").read_text().split()) >= 2)
    p.kill()
    p.wait()
    before = {k for k, (s, _) in table(work, root).items() if s == "done"}
    attempts = {o.id: read_status(o.folder) for o in plan_sweep(load_sweep(work), root).runs if o.id in before}
    assert set(s for s, _ in run_sweep(work, root).values()) == {"done"}
    assert before and all(read_status(root / "work" / k) == v for k, v in attempts.items())
    names = (root / "finished.txt").read_text().split()
    assert table(work, root) == expected(work, root) and all(names.count(k) == 1 for k in before)


@posix
def test_notebook_dies_with_its_runner(experiment, tmp_path):
    "Even one that holds the interpreter's lock, and so cannot look whether its runner is still there."
    busy = "from pathlib import Path\nPath(out, 'holding').write_text('')\nsum(range(10**13))"
    experiment(busy, name="busy", parameters=PARAMETERS)
    (tmp_path / "busy.yaml").write_text("experiment: busy.ipynb\n")
    p = start(tmp_path / "busy.yaml", tmp_path / "outputs")
    until(lambda: list((tmp_path / "outputs").rglob("holding")))
    assert kernels(tmp_path / "outputs")
    p.kill()
    p.wait()
    if sys.platform == "linux":
        until(lambda: not kernels(tmp_path / "outputs"), 5)
    end_orphans(tmp_path / "outputs")
    assert (
        not kernels(tmp_path / "outputs")
        and run_state(plan_sweep(load_sweep(tmp_path / "busy.yaml"), tmp_path / "outputs").runs[0].folder)
        == "interrupted"
    )


@posix
def test_what_a_killed_notebook_started_is_ended(experiment, tmp_path):
    "A helper process that outlives its notebook is found and ended by the next start."
    helper = """import subprocess
import sys
import time
from pathlib import Path
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'], start_new_session=True)
Path(out, 'helped').write_text('')
time.sleep(50 if not Path(out, 'again').exists() else 0)"""
    experiment(helper, WORK, LAST, name="helper", parameters=PARAMETERS)
    (tmp_path / "helper.yaml").write_text("experiment: helper.ipynb\n")
    root = tmp_path / "outputs"
    p = start(tmp_path / "helper.yaml", root)
    found = until(lambda: list(root.rglob("helped")))[0]
    p.kill()
    p.wait()
    until(lambda: len(kernels(root)) == 1, 20)
    (found.parent / "again").write_text("")
    left = kernels(root)
    assert [s for s, _ in run_sweep(tmp_path / "helper.yaml", root).values()] == ["done"]
    assert not left[0].is_running() or left[0].status() == psutil.STATUS_ZOMBIE
    for o in kernels(root):
        o.kill()


@posix
@pytest.mark.parametrize("times, patience", [(1, 1), (2, 25)])
def test_ctrl_c(experiment, tmp_path, times, patience):
    "Once: the run may save, and the sweep ends. Twice: it does not wait."
    experiment(SAVE.replace("SECONDS", str(patience)), name="save", parameters=PARAMETERS)
    (tmp_path / "save.yaml").write_text("experiment: save.ipynb\nseeds: 2\n")
    root = tmp_path / "outputs"
    p = start(tmp_path / "save.yaml", root)
    until(lambda: list(root.rglob("alive")))
    began = time.monotonic()
    ctrl_c(p)
    if times == 2:
        time.sleep(2)
        ctrl_c(p)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and "icportrait: interrupted" in err and "Traceback" not in err, err
    assert len(list(root.rglob("saved"))) == (times == 1) and (times == 1 or time.monotonic() - began < 22)
    states = sorted(o.state for o in plan_sweep(load_sweep(tmp_path / "save.yaml"), root).runs)
    assert states == ["interrupted", "queued"] and not kernels(root)


@pytest.mark.parametrize(
    "code,says",
    [
        ("raise ValueError('bad luck')", "bad luck"),
        ("import sys; sys.exit(0)", "sys.exit"),
        ("import os; os._exit(0)", "died"),
        ("import os; os.kill(os.getpid(), 9)", "died"),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\nx = bytearray(2**31)",
            "MemoryError",
        ),
    ],
)
def test_one_bad_run(experiment, tmp_path, code, says):
    "It fails with its reason, and the others are done."
    experiment(
        f"if seed == 1:\n    {code.replace(chr(10), chr(10) + '    ')}", WORK, LAST, name="odd", parameters=PARAMETERS
    )
    ends = run_sweep(
        make_sweep(experiment=str(tmp_path / "odd.ipynb"), seeds=2, fixed=dict(steps=1)), tmp_path / "outputs"
    )
    assert [s for s, _ in ends.values()] == ["done", "failed"] and says in list(ends.values())[1][1]
    assert not kernels(tmp_path / "outputs")
    again = run_sweep(
        make_sweep(experiment=str(tmp_path / "odd.ipynb"), seeds=2, fixed=dict(steps=1)), tmp_path / "outputs"
    )
    assert [s for s, _ in again.values()] == ["done", "failed"]
    assert {o["attempt"] for o in list_runs(tmp_path / "outputs")} == {1}, "nothing is tried again unasked"


def test_memory_limit(experiment, tmp_path):
    experiment('x = b"x"*(600*2**20)\nimport time; time.sleep(30)', LAST, name="big", parameters=PARAMETERS)
    ends = run_sweep(
        make_sweep(experiment=str(tmp_path / "big.ipynb"), resources=dict(memory_gb=0.5)), tmp_path / "outputs"
    )
    assert [s for s, _ in ends.values()] == ["failed"] and "more than 0.5 GB" in list(ends.values())[0][1]


def test_checkpoints_that_training_writes_are_pruned(tmp_path):
    "Those of a run that is done; one that is not done still needs them."
    import torch

    from icportrait.training.loop import train

    net, kept = torch.nn.Linear(2, 1), {}

    def loss(x, generator):
        return net(x).square().mean(), {}

    for state in ("done", "interrupted"):
        folder = tmp_path / "outputs" / "tiny" / state
        train(
            loss,
            list(net.named_parameters()),
            lambda k: torch.ones(2, 2),
            4,
            folder=folder / "training",
            checkpoint_every=2,
            progress=False,
        )
        write_json(folder / "status.json", dict(state=state))
        write_json(folder / "metrics.json", dict(total=1))
        kept[state] = sorted(o.name for o in (folder / "training").iterdir() if not o.name.startswith("step-"))
        assert list((folder / "training").glob("step-*"))
    assert prune_checkpoints(tmp_path / "outputs") > 0
    assert sorted(o.name for o in (tmp_path / "outputs" / "tiny" / "done" / "training").iterdir()) == kept["done"]
    assert list((tmp_path / "outputs" / "tiny" / "interrupted" / "training").glob("step-*"))


def test_full_disk(work, tmp_path, monkeypatch):
    "The sweep stops before it starts what cannot be written."
    monkeypatch.setattr(sweeps.shutil, "disk_usage", lambda p: type("", (), dict(free=10**6)))
    with pytest.raises(BenchError, match="free some and start the sweep again"):
        run_sweep(work, tmp_path / "outputs")
    monkeypatch.undo()
    assert {s for s, _ in run_sweep(work, tmp_path / "outputs").values()} == {"done"}


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_really_full_disk(experiment, tmp_path):
    "A disk of two megabytes that a cell fills: the run fails with its reason, and is done once there is room."
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed")
    try:
        fill = f"""from pathlib import Path
p = Path({str(disk)!r}, 'ballast')
if not Path({str(disk)!r}, 'enough').exists():
    with p.open('wb') as f:
        for _ in range(1000):
            f.write(bytes(8192))
            f.flush()"""
        nb = experiment(fill, WORK, LAST, name="fill", parameters=PARAMETERS)
        with pytest.raises(BenchError, match="(?i)no space left"):
            run_notebook(nb, dict(steps=1), root=disk / "outputs")
        folder = next((disk / "outputs" / "fill").iterdir())
        assert json.loads((folder / "status.json").read_text())["state"] == "failed" and read_metrics(folder) is None
        (disk / "ballast").unlink()
        (disk / "enough").write_text("")
        assert read_status(run_notebook(nb, dict(steps=1), root=disk / "outputs"))["state"] == "done"
    finally:
        subprocess.run(["umount", "-l", disk])


def test_notebook_edited_during_the_sweep(work, tmp_path):
    "The sweep goes on with what it has read."
    plan, edited = plan_sweep(load_sweep(work), tmp_path / "outputs"), []

    def watch(*args):
        if not edited:
            edited.append(
                (tmp_path / "work.ipynb").write_text((tmp_path / "work.ipynb").read_text().replace("*7", "*5"))
            )

    ends = run_sweep(work, tmp_path / "outputs", watch=watch)
    assert edited and set(ends) == {o.id for o in plan.runs} and {s for s, _ in ends.values()} == {"done"}
    assert all(
        read_metrics(o.folder)["curve"][1] == (7 + o.params["seed"] * 3 + (o.params["kind"] == "b")) % 11
        for o in plan.runs
    )
    assert not {o.id for o in plan_sweep(load_sweep(work), tmp_path / "outputs").runs} & set(ends), (
        "the edited notebook makes other runs"
    )


def test_library_edited_during_the_sweep(work, tmp_path, monkeypatch):
    plan = plan_sweep(load_sweep(work), tmp_path / "outputs")
    monkeypatch.setattr(identity, "_code_digest", lambda *_: "other")
    with pytest.raises(BenchError, match="has changed"):
        sweeps.run_one(plan, plan.runs[0])


@posix
def test_two_sweeps_at_once(work, tmp_path):
    "They share the work: each run is done once, and the first to finish waits for the other."
    root = tmp_path / "outputs"
    both = [start(work, root) for _ in range(2)]
    for p in both:
        _, err = p.communicate(timeout=300)
        assert p.returncode == 0 and "not done" not in err, err
    ends = run_sweep(work, root)
    assert {s for s, _ in ends.values()} == {"done"} and table(work, root) == expected(work, root)
    assert sorted((root / "finished.txt").read_text().split()) == sorted(ends)


def test_one_process_per_folder(work, tmp_path):
    plan = plan_sweep(load_sweep(work), tmp_path / "outputs")
    with lock_run(plan.runs[0].folder):
        with pytest.raises(RunLocked):
            run_notebook(plan.experiment, plan.runs[0].given, root=plan.root)
        assert sweeps.run_one(plan, plan.runs[0])[0] == "running"


@pytest.mark.parametrize("damage", ["status", "metrics", "params", "checkpoint", "notebook"])
def test_damaged_files(work, tmp_path, damage):
    "Whatever is damaged, the run ends with the right figures, and is not called done before."
    root = tmp_path / "outputs"
    one = make_sweep(experiment=str(tmp_path / "work.ipynb"))
    run = plan_sweep(one, root).runs[0]
    run_sweep(one, root)
    right = read_metrics(run.folder)
    name = dict(
        status="status.json",
        metrics="metrics.json",
        params="params.yaml",
        checkpoint="checkpoint.json",
        notebook="notebook.ipynb",
    )[damage]
    (run.folder / name).write_text('{"half')
    if damage in ("checkpoint", "params", "notebook"):
        write_json(run.folder / "status.json", read_status(run.folder) | dict(state="running", pid=2**22 + 1))
    assert run_state(run.folder) == "interrupted"
    ends = run_sweep(one, root)
    assert [s for s, _ in ends.values()] == ["done"], ends
    assert read_metrics(run.folder) == right


def test_clock_jumps(experiment, tmp_path, monkeypatch):
    "Durations and states do not believe the clock."
    real, clock = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + 7200)
    monkeypatch.setattr(
        recorder, "now", lambda: f"20{30 - next(clock) % 20}-01-01T00:00:00+00:00"
    )  # it goes back, years at a time
    seen = []

    def watch(status):
        monkeypatch.setattr(time, "time", lambda: real() - 86400)
        seen.append(read_status(tmp_path / "run")["state"])

    folder = run_notebook(experiment(WORK, LAST, parameters=PARAMETERS), {}, tmp_path / "run", watch=watch)
    assert read_status(folder)["seconds"] < 100 and set(seen) <= {"queued", "running", "done"} and "running" in seen
    jumped = dict(
        read_status(folder),
        state="running",
        pid=os.getpid(),
        process_start_time=process_start_time(os.getpid()),
        updated="2001-01-01T00:00:00+00:00",
    )
    write_json(folder / "status.json", jumped)
    assert read_status(folder)["state"] == "running"


def test_dry_run_starts_nothing(work, tmp_path):
    done = here("sweep", work, "--root", tmp_path / "outputs", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert (plan["runs"], plan["left"], len(plan["plan"])) == (6, 6, 6) and not (tmp_path / "outputs").exists()


def test_dry_run_tells_what_varies_apart(work, tmp_path):
    (tmp_path / "fixed.yaml").write_text("experiment: work.ipynb\nfixed: {steps: 2}\ngrid: {kind: [a, b]}\n")
    said = here("sweep", tmp_path / "fixed.yaml", "--root", tmp_path / "outputs", "--dry-run").stdout
    assert "in all of them: steps=2" in said and "kind" in said.splitlines()[1] and "steps" not in said.splitlines()[1]


@pytest.mark.parametrize(
    "text,says",
    [
        ("grid: {stops: [1]}", "did you mean 'steps'"),
        ("grid: {steps: [0]}", "in [1,1000]"),
        ("grid: {kind: [c]}", "one of 'a', 'b'"),
        ("gird: {}", "gird"),
        ("seeds: 0", "seeds"),
    ],
)
def test_bad_sweeps(work, tmp_path, text, says):
    (tmp_path / "bad.yaml").write_text(f"experiment: work.ipynb\n{text}\n")
    assert says in error_line(here("sweep", tmp_path / "bad.yaml", "--root", tmp_path / "outputs"))
    assert not (tmp_path / "outputs").exists()


def test_a_thousand_runs(work, tmp_path):
    "Planned and listed without waiting."
    many = make_sweep(
        experiment=str(tmp_path / "work.ipynb"),
        grid=dict(steps=list(range(1, 501))),
        conditions=dict(a={}, b=dict(kind="b")),
    )
    began = time.process_time()
    plan = plan_sweep(many, tmp_path / "outputs")
    planned = time.process_time() - began
    for o in plan.runs:
        o.folder.mkdir(parents=True)
        (o.folder / "status.json").write_text(
            json.dumps(
                dict(
                    state="done",
                    started="2026-01-01T00:00:00+00:00",
                    seconds=1.0,
                    experiment="work",
                    parameters=o.params,
                )
            )
        )
        (o.folder / "metrics.json").write_text('{"total": 1}')
    began = time.process_time()
    rows = list_runs(tmp_path / "outputs")
    listed = time.process_time() - began
    assert len(rows) == 1000 and planned < 2 and listed < 1, (planned, listed)
    assert {o.state for o in plan_sweep(many, tmp_path / "outputs").runs} == {"done"}


def test_schema_is_current():
    assert json.loads((ROOT / "nbs" / "experiments" / "sweep.schema.json").read_text()) == sweeps.sweep_schema(), (
        "icportrait sweep --schema > nbs/experiments/sweep.schema.json"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "nbs" / "experiments").glob("*.yaml")), ids=lambda o: o.stem)
def test_shipped_sweeps(path, tmp_path):
    assert plan_sweep(load_sweep(path), tmp_path).runs


def test_compare(work, tmp_path):
    "The table says what the runs wrote; the page is a run of its own."
    root = tmp_path / "outputs"
    run_sweep(work, root)
    groups = json.loads(
        here(
            "compare",
            work,
            "--root",
            root,
            "--figures",
            "total",
            "--no-page",
            "--json",
            "--export",
            tmp_path / "all.parquet",
        ).stdout.partition("\n")[2]
    )
    for o in groups:
        totals = [sum((i * 7 + s * 3 + (o["kind"] == "b")) % 11 for i in range(6)) for s in range(3)]
        assert (
            o["runs"] == 3
            and abs(o["total"]["mean"] - sum(totals) / 3) < 1e-9
            and o["total"]["low"] < o["total"]["mean"] < o["total"]["high"]
        )
    assert (tmp_path / "all.parquet").stat().st_size > 1000
    rows = json.loads(here("runs", root, "-w", "kind=b", "-w", "seed>=1", "--sort", "-seed", "--json").stdout)
    assert [(o["parameters"]["kind"], o["parameters"]["seed"]) for o in rows] == [("b", 2), ("b", 1)]
    assert "no run has" in error_line(here("runs", root, "-w", "colour=b"))


def test_mlflow(work, tmp_path):
    "The real one, where it is installed; a stand-in is in the notebook."
    mlflow = pytest.importorskip("mlflow")
    from icportrait.bench.exports import log_to_mlflow
    from icportrait.bench.tables import load_runs

    one, uri = make_sweep(experiment=str(tmp_path / "work.ipynb")), f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_sweep(one, tmp_path / "outputs")
    rows = load_runs(tmp_path / "outputs")
    assert (log_to_mlflow(rows, uri), log_to_mlflow(rows, uri)) == (1, 0)
    (found,) = mlflow.search_runs(experiment_names=["work"], output_format="list")
    assert found.info.run_name == plan_sweep(one, tmp_path / "outputs").runs[0].id and found.info.status == "FINISHED"
    assert found.data.params["steps"] == "6" and found.data.metrics["total"] == rows[0]["total"]
    run_notebook(tmp_path / "work.ipynb", {}, rows[0]["folder"], replace=True)
    again = load_runs(tmp_path / "outputs")
    assert (log_to_mlflow(again, uri), log_to_mlflow(again, uri)) == (1, 0), "made anew in the same folder"
    with pytest.raises(BenchError, match="MLflow: ") as e:
        log_to_mlflow(again, "ftp://me:secret@nowhere")
    assert "secret" not in str(e.value)
    assert error_line(
        here("compare", tmp_path / "outputs", "--mlflow", "ftp://me:secret@nowhere", "--no-page")
    ).startswith("MLflow: ")


def test_keep_a_comparison(work, tmp_path):
    "The page of a sweep becomes a result: its table, its curve, and where all of it comes from."
    experiment = (
        (tmp_path / "work.ipynb")
        .read_text()
        .replace("curve=done", "curve=[dict(step=i, total=o) for i, o in enumerate(done)]")
    )
    (tmp_path / "work.ipynb").write_text(experiment)
    run_sweep(work, tmp_path / "outputs")
    page = compare_runs(work, tmp_path / "outputs", figures="total")
    kept = bench.keep_result("work", page, tmp_path / "results", image="curve-total.png")
    assert 1000 < kept.with_suffix(".jpg").stat().st_size < 100_000
    result = bench.read_result("work", tmp_path / "results")
    made = result["provenance"]
    assert made["command"].startswith(f"icportrait sweep {work} && icportrait compare") and made["seeds"] == dict(
        seed=[0, 1, 2]
    )
    assert (
        made["hardware"] == bench.hardware()
        and made["commit"]
        and made["date"]
        and made["parameters"]["kind"] == ["a", "b"]
    )
    assert {k: (o["runs"], set(o["total"])) for k, o in result["figures"]["groups"].items()} == dict.fromkeys(
        "ab", (3, {"mean", "low", "high"})
    )


@posix
def test_progress_in_a_terminal(work, tmp_path):
    "A table that moves while the sweep goes on."
    import pty

    terminal, end = pty.openpty()
    start(work, tmp_path / "outputs", stderr=end)
    os.close(end)
    said = b""
    with suppress(OSError):  # Linux's way to say that the other end is closed
        while part := os.read(terminal, 65536):
            said += part
    os.close(terminal)
    said = said.decode()
    assert started[-1].wait() == 0 and "1 running, 5 queued" in said and "/7] Part " in said and "5 done" in said, (
        said[-2000:]
    )


def test_crontab_line(work, tmp_path):
    "The command of the recipe with the little environment that cron gives; the second time there is nothing to do."
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "PYTHONPATH": str(ROOT)}
    python = f'"{sys.executable}" -c "from icportrait.cli.main import app; app()"'
    line = f"cd {tmp_path} && {python} sweep work.yaml >> cron.log 2>&1"
    for _ in range(2):
        subprocess.run(line, shell=True, env=env, check=True, timeout=300, stdin=subprocess.DEVNULL)
    assert (tmp_path / "cron.log").read_text().count("6 done") == 2
    assert len((tmp_path / "outputs" / "finished.txt").read_text().split()) == 6


def test_scheduler_notebook(work, tmp_path):
    "What Airflow's PapermillOperator does: it succeeds when all runs are done, and fails when one is not."
    import papermill

    notebook, params = (
        ROOT / "nbs" / "experiments" / "run_sweep.ipynb",
        dict(out=str(tmp_path / "out"), sweep=str(work), root=str(tmp_path / "outputs")),
    )
    papermill.execute_notebook(
        str(notebook), str(tmp_path / "done.ipynb"), params, kernel_name="python3", progress_bar=False
    )
    assert table(work, tmp_path / "outputs") == expected(work, tmp_path / "outputs")
    live = [
        o
        for c in nbformat.read(tmp_path / "done.ipynb", 4).cells
        for o in c.get("outputs", [])
        if o.output_type == "display_data"
    ]
    assert len(live) == 1 and "6 done" in live[0].data["text/html"], "one table, kept up to date"
    (tmp_path / "work.ipynb").write_text(
        (tmp_path / "work.ipynb").read_text().replace("json.loads(state", "1/0; json.loads(state")
    )
    with pytest.raises(papermill.PapermillExecutionError, match="are not done"):
        papermill.execute_notebook(
            str(notebook), str(tmp_path / "failed.ipynb"), params, kernel_name="python3", progress_bar=False
        )


@posix
def test_jobs_of_a_cluster(work, tmp_path):
    "The recipe for Slurm, with submitit's processes on this machine in place of Slurm's: the jobs share one sweep."
    submitit = pytest.importorskip("submitit")
    executor = submitit.AutoExecutor(folder=tmp_path / "slurm", cluster="local")
    executor.update_parameters(timeout_min=5)
    jobs = [executor.submit(run_sweep, str(work), str(tmp_path / "outputs")) for _ in range(2)]
    for job in jobs:
        job.result()
    assert table(work, tmp_path / "outputs") == expected(work, tmp_path / "outputs")
    assert len((tmp_path / "outputs" / "finished.txt").read_text().split()) == 6


@posix
def test_job_at_its_time_limit(experiment, tmp_path):
    "submitit warns a job before its time is up: the run saves, is interrupted, and the next job continues it."
    submitit = pytest.importorskip("submitit")
    experiment(SAVE.replace("SECONDS", "1"), WORK, LAST, name="work", parameters=PARAMETERS)
    (tmp_path / "one.yaml").write_text("experiment: work.ipynb\n")
    root, executor = tmp_path / "outputs", submitit.AutoExecutor(folder=tmp_path / "slurm", cluster="local")
    executor.update_parameters(timeout_min=5)
    job = executor.submit(run_sweep, str(tmp_path / "one.yaml"), str(root))
    until(lambda: list(root.rglob("alive")))
    os.kill(
        read_status(list(root.rglob("alive"))[0].parent)["pid"], signal.SIGUSR2
    )  # what Slurm does before the time limit
    with pytest.raises(submitit.core.utils.UncompletedJobError):
        job.result()
    assert [s for s, _ in table(tmp_path / "one.yaml", root).values()] == ["interrupted"] and list(root.rglob("saved"))
    executor.submit(run_sweep, str(tmp_path / "one.yaml"), str(root)).result()
    assert [s for s, _ in table(tmp_path / "one.yaml", root).values()] == ["done"] and list_runs(root)[0][
        "attempt"
    ] == 2


@pytest.fixture
def ray():
    module = pytest.importorskip("ray", reason="Ray is the extra [cluster]")
    yield module
    module.shutdown()


def test_ray_gives_the_same(work, tmp_path, ray):
    "The same figures as inline, and again nothing is repeated."
    ends = run_sweep(work, tmp_path / "outputs", on="ray", workers=2)
    assert {s for s, _ in ends.values()} == {"done"} and table(work, tmp_path / "outputs") == expected(
        work, tmp_path / "outputs"
    )
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0" and not ray.is_initialized()
    run_sweep(work, tmp_path / "outputs", on="ray", workers=2)
    assert len((tmp_path / "outputs" / "finished.txt").read_text().split()) == 6


@posix
def test_ray_worker_killed(work, tmp_path, ray, rng):
    "The run is interrupted, not failed and not done; its notebook ends; the next start continues it."
    root, killed = tmp_path / "outputs", []

    def watch(plan, run, state, error, status):
        if state == "running" and status and status.get("cell") and not killed:
            time.sleep(rng.uniform(0, 1))
            with suppress(ProcessLookupError):  # it has ended meanwhile: another one then
                os.kill(status["pid"], signal.SIGKILL)
                killed.append(run.id)

    slow = make_sweep(experiment=str(tmp_path / "work.ipynb"), fixed=dict(pause=0.5), seeds=2)
    ends = run_sweep(slow, root, on="ray", workers=2, watch=watch)
    assert (
        killed
        and ends[killed[0]] == ("interrupted", "its worker died")
        and sorted(s for s, _ in ends.values()) == ["done", "interrupted"]
    )
    until(lambda: not kernels(root), 20)
    assert {s for s, _ in run_sweep(slow, root, on="ray", workers=2).values()} == {"done"}


@posix
def test_ray_cluster_killed(work, tmp_path, ray, rng):
    "Everything of Ray is killed at once; no notebook is left, and an inline sweep finishes the work."
    root = tmp_path / "outputs"
    (tmp_path / "slow.yaml").write_text("experiment: work.ipynb\nfixed: {pause: 1}\nseeds: 2\n")
    p = start(tmp_path / "slow.yaml", root, "--on", "ray", "--workers", "2")
    until(lambda: kernels(root))
    time.sleep(rng.uniform(0, 3))
    for o in psutil.Process(p.pid).children(recursive=True):
        if "ipykernel" not in " ".join(o.cmdline()):
            o.kill()
    p.communicate(timeout=400)  # Ray itself takes a minute to believe it
    assert p.returncode not in (0, None)
    until(lambda: not kernels(root), 20)
    assert "done" not in {s for s, _ in table(tmp_path / "slow.yaml", root).values()}
    assert {s for s, _ in run_sweep(tmp_path / "slow.yaml", root).values()} == {"done"}


@posix
@pytest.mark.parametrize("times", [1, 2])
def test_ray_ctrl_c(experiment, tmp_path, ray, times):
    "Once: both runs may save, and the sweep ends. Twice: it does not wait. No process is left, of the runs or of Ray."
    experiment(SAVE.replace("SECONDS", "4" if times == 1 else "25"), WORK, LAST, name="save", parameters=PARAMETERS)
    (tmp_path / "save.yaml").write_text("experiment: save.ipynb\nseeds: 3\n")
    root = tmp_path / "outputs"
    p = start(tmp_path / "save.yaml", root, "--on", "ray", "--workers", "2")
    until(lambda: len(list(root.rglob("alive"))) == 2)
    processes, began = psutil.Process(p.pid).children(recursive=True), time.monotonic()
    ctrl_c(p)
    if times == 2:
        time.sleep(2)
        ctrl_c(p)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 130 and "icportrait: interrupted" in err and "Traceback" not in err, err
    assert len(list(root.rglob("saved"))) == (2 if times == 1 else 0) and (times == 1 or time.monotonic() - began < 22)
    until(lambda: not kernels(root), 20)
    assert len(processes) > 4 and not psutil.wait_procs(processes, timeout=20)[1]
    assert sorted(s for s, _ in table(tmp_path / "save.yaml", root).values()) == [
        "interrupted",
        "interrupted",
        "queued",
    ]
    if times == 2:
        return
    (tmp_path / "save.yaml").write_text("experiment: save.ipynb\nseeds: 2\n")
    assert [s for s, _ in run_sweep(tmp_path / "save.yaml", root).values()] == ["done", "done"] and {
        o["attempt"] for o in list_runs(root)
    } == {2}


@posix
def test_ray_runner_killed(work, tmp_path, ray, rng):
    "Ray and the notebooks end with the command that started them, even when it is killed."
    root = tmp_path / "outputs"
    (tmp_path / "slow.yaml").write_text("experiment: work.ipynb\nfixed: {pause: 1}\nseeds: 2\n")
    p = start(tmp_path / "slow.yaml", root, "--on", "ray", "--workers", "2")
    until(lambda: kernels(root))
    time.sleep(rng.uniform(0, 3))
    processes = psutil.Process(p.pid).children(recursive=True)
    p.kill()
    p.wait()
    until(lambda: not kernels(root), 20)
    assert len(processes) > 4 and not psutil.wait_procs(processes, timeout=150)[1], (
        "two of Ray's own processes take a minute to believe it"
    )
    assert "done" not in {s for s, _ in table(tmp_path / "slow.yaml", root).values()}
    assert {s for s, _ in run_sweep(tmp_path / "slow.yaml", root).values()} == {"done"}


HUNDRED = list(range(100))


@pytest.mark.parametrize(
    "text, says",
    [
        ("fixed: {d: {a: .nan}}", "'d' holds nan"),
        ("fixed: {d: {a: 2024-01-01}}", "'d' holds a date (2024-01-01)"),
        ("grid: {d: [{2024-01-01: 1}]}", "'d' holds a date"),
        ("fixed: {d: 2024-13-45}", "not YAML"),
        ("fixed: {l: [.inf]}", "'l' holds inf"),
        ("random: {samples: 1, parameters: {f: {uniform: [0, .nan]}}}", "finite number"),
        ("fixed: &a {d: *a}", "bad.yaml"),
        (f"grid: {{n: {HUNDRED}, m: {HUNDRED}, k: {HUNDRED}, j: {HUNDRED}}}", "100,000,000 runs are too many"),
    ],
)
@pytest.mark.parametrize("option", ["--dry-run", "--json"])
def test_values_that_no_notebook_can_be_given(experiment, tmp_path, text, says, option):
    "One line, at once, and nothing has started."
    integers = "".join(f"{o}: int = 1\n" for o in "nmkj")
    parameters = f"d: dict = {{}}\nl: list = []\nf: float = 1.0\n{integers}out: str = ''"
    experiment("1", name="odd", parameters=parameters)
    (tmp_path / "bad.yaml").write_text(f"experiment: odd.ipynb\n{text}\n")
    began = time.process_time()
    said = error_line(here("sweep", tmp_path / "bad.yaml", "--root", tmp_path / "outputs", option))
    assert says in said and not (tmp_path / "outputs").exists()
    assert time.process_time() - began < 3


def test_values_of_a_sweep_arrive(experiment, tmp_path):
    "Integer keys, tuples and None, through a sweep file as well."
    parameters = "d: dict = {}\nt: tuple[int, int] = (1, 2)\no: int | None = 1\nout: str = ''"
    code = "from icportrait.bench import write_metrics\nwrite_metrics(out, dict(d=repr(d), t=repr(t), o=repr(o)))"
    experiment(code, name="odd", parameters=parameters)
    (tmp_path / "odd.yaml").write_text("experiment: odd.ipynb\nfixed: {d: {1: a}, t: [3, 4], o: null}\n")
    run_sweep(tmp_path / "odd.yaml", tmp_path / "outputs")
    (run,) = plan_sweep(load_sweep(tmp_path / "odd.yaml"), tmp_path / "outputs").runs
    assert read_metrics(run.folder) == dict(d="{1: 'a'}", t="(3, 4)", o="None") and run.state == "done"


def test_names_of_runs(experiment, tmp_path):
    "No paths, and never two that begin the same and are cut."
    experiment("1", name="odd", parameters="start: str = ''\nsizes: list[int] = []\nout: str = ''")
    starts = [str(tmp_path / "a long folder name" / o) for o in ("first", "second")]
    grid = dict(start=starts, sizes=[list(range(60)), [1, 2]])
    names = [o.id for o in plan_sweep(make_sweep(experiment=str(tmp_path / "odd.ipynb"), grid=grid), tmp_path).runs]
    assert [o.rpartition("-")[0] for o in names] == [
        "start=first_and-1-more",
        "start=first_sizes=1-2",
        "start=second_and-1-more",
        "start=second_sizes=1-2",
    ]


def test_one_run_has_no_interval(work, tmp_path):
    "In the table, in JSON, and on the page."
    root = tmp_path / "outputs"
    one = make_sweep(experiment=str(tmp_path / "work.ipynb"), fixed=dict(pause=0.0))
    run_sweep(one, root)
    assert "n = 1, no interval" in here("compare", root, "--no-page", "--figures", "total").stdout
    (group,) = json.loads(here("compare", root, "--no-page", "--figures", "total", "--json").stdout)
    assert (group["total"]["low"], group["total"]["high"]) == (None, None) and group["total"]["mean"] > 0
    page = compare_runs(root, root, figures="total", out=tmp_path / "page")
    assert "n = 1, no interval" in (page / "report.html").read_text()
    assert read_metrics(page)["groups"]["all"]["total"]["low"] is None


def test_figures_of_any_name(experiment, tmp_path):
    "`pck@0.1_after.mean` is selected by, sorted by, and shown."
    code = """from icportrait.bench import write_metrics
write_metrics(out, {'pck@0.1_after': dict(mean=seed / 4)})"""
    experiment(code, name="odd", parameters="seed: int = 0\nout: str = ''")
    root = tmp_path / "outputs"
    run_sweep(make_sweep(experiment=str(tmp_path / "odd.ipynb"), seeds=3), root)
    name = "pck@0.1_after.mean"
    rows = json.loads(here("runs", root, "-w", f"{name}>0.2", "--sort", f"-{name}", "--json").stdout)
    assert [o["parameters"]["seed"] for o in rows] == [2, 1]
    compared = ["compare", root, "--no-page", "--figures", name, "-w", f"{name} <= 0.25", "--json"]
    (group,) = json.loads(here(*compared).stdout)
    assert group["runs"] == 2 and group[name]["mean"] == 0.125
