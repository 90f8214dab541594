"""All tests.

`python tests/run_all.py [check] [notebooks] [lessons] [pytest]`: format, lint, types and sync; the notebooks' own
tests; the lessons; the rest. Without a name, all of them: first the check, then notebooks beside pytest.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = dict(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
ENV = os.environ | OFFLINE | dict(TQDM_DISABLE="1", NBDEV_TEST="1")
ENV.pop("ICPORTRAIT_DEBUG", None)


def tool(name: str, *args: str) -> list[str]:
    "A command of this Python's environment."
    return [str(Path(sys.executable).with_name(name)), *args]


def pytest(*args: str) -> list[str]:
    "A call of pytest."
    return [sys.executable, "-m", "pytest", "-q", *args]


def notebooks(folder: Path) -> list[str]:
    "nbdev's tests of the notebooks in a folder, without the cells flagged slow or cuda."
    return tool("nbdev_test", "--path", str(folder), "--n_workers", "0", "--timing")


REFERENCE = ("world", "dataset", "model", "training", "evaluation", "bench", "explore", "cli")
STEPS = {
    "check": [
        tool("ruff", "format", "--check", "--quiet", "."),
        tool("ruff", "check", "--quiet", "--output-format", "concise", "."),
        tool("basedpyright", "--level", "error"),
        [sys.executable, "docs/make_lessons.py", "--check"],
        pytest("tests/test_sync.py"),
    ],
    "notebooks": [
        *(notebooks(path) for path in sorted((ROOT / "nbs").glob("0*.ipynb"))),
        *(notebooks(ROOT / "nbs" / name) for name in REFERENCE),
    ],
    "lessons": [pytest("tests/test_lessons.py")],
    "pytest": [pytest("--durations=8", "--ignore=tests/test_sync.py", "--ignore=tests/test_lessons.py", "tests")],
}


LANES = (("notebooks", "lessons"), ("pytest",))  # run beside each other, each with half of the processors


def run_step(name: str, output: Any = None, env: dict[str, str] | None = None) -> int:
    "Run the commands of a step; the exit status is that of the first that fails."
    start = time.time()
    for command in STEPS[name]:
        done = subprocess.run(command, cwd=ROOT, env=env or ENV, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            print(f"== {name}: failed: {' '.join(command)}", file=output, flush=True)
            return done.returncode
    print(f"== {name}: passed in {time.time() - start:.0f} s", file=output, flush=True)
    return 0


def run_lane(names: Sequence[str]) -> int:
    "Run steps one after the other; what each printed is shown when it ends."
    half = ENV | dict(OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 2) // 2)), OMP_WAIT_POLICY="PASSIVE")
    for name in names:
        with tempfile.TemporaryFile("w+") as log:
            status = run_step(name, log, half)
            log.seek(0)
            print(log.read(), end="", flush=True)
        if status:
            return status
    return 0


def main(args: list[str]) -> int:
    "Run the steps; the exit status is that of the first command that fails."
    chosen = [o for o in args if o in STEPS] or list(STEPS)
    lanes = [[name for name in lane if name in chosen] for lane in LANES]
    beside = [lane for lane in lanes if lane]
    if len(beside) < 2:
        for name in chosen:
            print(f"== {name}", flush=True)
            if status := run_step(name):
                return status
        return 0
    if "check" in chosen and (status := run_step("check")):
        return status
    with ThreadPoolExecutor(len(beside)) as pool:
        return next((status for status in pool.map(run_lane, beside) if status), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
