"What all tests share: a clean environment, and tiny experiments to run."

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = "steps: int = 5  # how many\nname: str = 'x'\nout: str = 'outputs/tiny'  # run folder"
LAST = "from icportrait.bench.runs import write_metrics\nwrite_metrics(out, dict(steps=steps))"

os.environ |= dict(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
os.environ.pop("ICPORTRAIT_DEBUG", None)


def command(*args, cwd=None, env=None, timeout=300):
    "Run `icportrait` in a process of its own, as a terminal would."
    line = [sys.executable, "-c", "from icportrait.cli.main import app; app()", *map(str, args)]
    return subprocess.run(
        line,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"} | (env or {}),
    )


def here(*args):
    "Run `icportrait` in this process, which saves loading the libraries again."
    from icportrait.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([str(o) for o in args])
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


def error_line(done, status=1):
    "The single line that a failed command said; a traceback or a second line fails the test."
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    lines = [o for o in done.stderr.splitlines() if o.startswith("icportrait: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("icportrait: ")


@pytest.fixture
def experiment(tmp_path):
    "A function that writes a notebook with a parameters cell and the given code cells."

    def make(*code, name="tiny", parameters=PARAMETERS):
        new = nbformat.v4
        cells = [new.new_markdown_cell(f"# {name}"), new.new_code_cell(parameters, metadata=dict(tags=["parameters"]))]
        for i, o in enumerate(code):
            cells += [new.new_markdown_cell(f"## Part {i}"), new.new_code_cell(o)]
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(new.new_notebook(cells=cells), path)
        return path

    return make
