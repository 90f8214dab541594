"""Keep a finished demo for the documents: `make demo`, then `python docs/keep_demo.py`.

Figures with their provenance, images and film go to data/results; the tables of docs/results.md are written anew.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from icportrait.bench.results import keep_image, keep_result

ROOT = Path(__file__).resolve().parent.parent
RUN, KEPT = ROOT / "outputs" / "demo", ROOT / "data" / "results"


if __name__ == "__main__":
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else RUN
    keep_result("demo", run)
    for name in ("portraits", "correspondence", "relighting"):
        keep_image(run / f"{name}.png", KEPT / f"{name}.jpg")
    shutil.copyfile(run / "film.gif", KEPT / "film.gif")
    subprocess.run([sys.executable, ROOT / "docs" / "write_tables.py"], check=True)
