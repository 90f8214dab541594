"All tests, one after the other, so that memory stays small: the notebooks' own, the tutorials, then pytest."

import os
import subprocess
import sys
import time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
env = os.environ | dict(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TQDM_DISABLE="1", NBDEV_TEST="1")
env.pop("ICPORTRAIT_DEBUG", None)


def notebooks(path):
    "nbdev's tests of the notebooks in a folder or file, without the cells flagged slow or cuda."
    return [str(Path(sys.executable).with_name("nbdev_test")), "--path", str(path), "--n_workers", "0", "--timing"]


def main(args):
    "Run the steps; the exit status is that of the first one that fails."
    steps = {"notebooks": notebooks(root / "nbs")}
    if any((root / "nbs" / "tutorials").glob("*.ipynb")):
        steps["tutorials"] = notebooks(root / "nbs" / "tutorials")
    steps["pytest"] = [sys.executable, "-m", "pytest", "-q", "--durations=8", "tests"]
    chosen = [o for o in args if o in steps] or list(steps)
    for name in chosen:
        start = time.time()
        print(f"== {name}", flush=True)
        status = subprocess.run(steps[name], cwd=root, env=env).returncode
        print(f"== {name}: {'failed' if status else 'passed'} in {time.time() - start:.0f} s", flush=True)
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
