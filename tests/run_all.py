"""All tests, one after the other, so that memory stays small.

`python tests/run_all.py [check] [notebooks] [lessons] [pytest]`: format, lint, types and sync; the notebooks' own
tests; the lessons; the rest. Without a name, all of them.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

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
        pytest("tests/test_sync.py"),
    ],
    "notebooks": [
        *(notebooks(path) for path in sorted((ROOT / "nbs").glob("0*.ipynb"))),
        *(notebooks(ROOT / "nbs" / name) for name in REFERENCE),
    ],
    "lessons": [notebooks(ROOT / "nbs" / "lessons")],
    "pytest": [pytest("--durations=8", "--ignore=tests/test_sync.py", "tests")],
}


def main(args: list[str]) -> int:
    "Run the steps; the exit status is that of the first command that fails."
    for name in [o for o in args if o in STEPS] or list(STEPS):
        start = time.time()
        print(f"== {name}", flush=True)
        for command in STEPS[name]:
            status = subprocess.run(command, cwd=ROOT, env=ENV).returncode
            if status:
                print(f"== {name}: failed: {' '.join(command)}", flush=True)
                return status
        print(f"== {name}: passed in {time.time() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
