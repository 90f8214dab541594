"Notebooks, modules and README tell the same story."

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser

import pytest
from conftest import ROOT
from readme import render

NOTEBOOKS = sorted(o for o in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in o.parts)
nbdev = pytest.importorskip("nbdev", reason="nbdev is a development requirement")


def run(*args, cwd):
    done = subprocess.run(
        [sys.executable, "-c", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "A copy of the repository in which the modules were deleted and exported again, and the notebooks cleaned."
    copy = tmp_path_factory.mktemp("copy")
    for name in "nbs", "settings.ini", "setup.py":
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    run("from nbdev.export import nb_export; from nbdev.doclinks import nbdev_export; nbdev_export()", cwd=copy)
    run("from nbdev.clean import nbdev_clean; nbdev_clean(disp=False)", cwd=copy)
    return copy


def modules(root):
    return {
        o.relative_to(root).as_posix(): o.read_text()
        for o in (root / "icportrait").rglob("*")
        if o.is_file() and "__pycache__" not in o.parts
    }


def test_modules_are_those_of_the_notebooks(exported):
    ours, fresh = modules(ROOT), modules(exported)
    assert set(ours) == set(fresh), "a module without its notebook, or a notebook without its module: make export"
    assert [k for k in ours if ours[k] != fresh[k]] == [], (
        "these modules are not what the notebooks export: make export"
    )


def test_notebooks_are_clean(exported):
    changed = [o.name for o in NOTEBOOKS if o.read_text() != (exported / o.relative_to(ROOT)).read_text()]
    assert changed == [], "these notebooks are not clean: make export"


def test_readme_is_the_index():
    assert (ROOT / "README.md").read_text() == render(), "make export"


def test_readme_links():
    text = (ROOT / "README.md").read_text()
    links = [o for o in re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', text)]
    paths = [a or b for a, b in links if not (a or b).startswith(("http", "data:"))]
    assert paths and [o for o in paths if not (ROOT / o).exists()] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda o: o.stem)
def test_notebook(path):
    "Fixed ids, no errors among the outputs, no large outputs; experiments carry none, and have their parameters."
    nb = json.loads(path.read_text())
    ids = [c["id"] for c in nb["cells"]]
    assert len(set(ids)) == len(ids)
    outputs = [o for c in nb["cells"] for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert all(len(json.dumps(o)) < 400_000 for o in outputs)
    assert not re.search(r"/(home|root|work|Users)/\w", json.dumps(outputs)), "a path of somebody's machine"
    if path.parent.name == "experiments":
        assert not outputs and sum("parameters" in c["metadata"].get("tags", []) for c in nb["cells"]) == 1


def test_later_modules_are_not_imported_by_earlier_ones():
    order = {
        re.search(r"default_exp (\w+)", o.read_text())[1]: o.stem
        for o in NOTEBOOKS
        if o.parent.name == "nbs" and "default_exp" in o.read_text()
    }
    for path in (ROOT / "icportrait").glob("[a-z]*.py"):
        for name in re.findall(r"^(?:from icportrait\.|from \.|import icportrait\.)(\w+)", path.read_text(), re.M):
            assert order[name] < order[path.stem], f"{path.stem} imports {name}"


def test_requirements_are_pinned():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini")
    pins = dict(l.split("==") for l in (ROOT / "constraints.txt").read_text().splitlines() if "==" in l)
    pins = {k.lower().replace("_", "-"): v for k, v in pins.items()}
    names = [
        re.split(r"[<>=\[]", o)[0].lower().replace("_", "-")
        for k in ("requirements", "dev_requirements", "apps_requirements", "browser_requirements")
        for o in config["DEFAULT"][k].split()
    ]
    assert [o for o in names if o not in pins] == []
    assert "fastcore" not in config["DEFAULT"]["requirements"] and "+" not in "".join(pins.values())


def test_run_time_does_not_need_the_development_tools():
    code = "import sys\nfor o in 'nbdev','fastcore','execnb','ghapi': sys.modules[o]=None\nimport pkgutil,importlib,icportrait\nfor m in pkgutil.iter_modules(icportrait.__path__):\n    if m.name!='_modidx': importlib.import_module('icportrait.'+m.name)\nassert 'mitsuba' not in sys.modules and 'matplotlib.pyplot' not in sys.modules, 'heavy at import'"
    run(code, cwd=ROOT)
