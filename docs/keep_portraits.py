"""Keep a finished run of `measure_portraits` for the documents: `python docs/keep_portraits.py RUN`.

Figures with their provenance go to data/results, and 36 portraits that nobody selected; the tables of docs/results.md
are written anew.
"""

import subprocess
import sys
from pathlib import Path

from icportrait.bench.results import keep_image, keep_result

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "data" / "results"


if __name__ == "__main__":
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "outputs" / "portraits"
    keep_result("portraits", run)
    keep_image(run / "unselected.png", KEPT / "unselected.jpg")
    subprocess.run([sys.executable, ROOT / "docs" / "write_tables.py"], check=True)
