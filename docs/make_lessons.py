"""The students' lessons, from the solved ones: `python docs/make_lessons.py`, or with the first letters of some.

nbs/solutions has every lesson with its exercises solved, and no outputs. This runs them, and writes to nbs/lessons
what students get: each solution is `...`, all other cells show what they made. With `--check` nothing is run; it says
which lessons are out of step.
"""

import re
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
SOLVED, LESSONS = ROOT / "nbs" / "solutions", ROOT / "nbs" / "lessons"
SOLUTION = re.compile(r"^( *)# <solution>\n.*?^ *# </solution>$", re.M | re.S)


def unsolved(
    source: str,  # of a cell
) -> str:
    "A cell as students get it."
    return SOLUTION.sub(r"\1...", source)


WIDGET = "application/vnd.jupyter.widget-view+json"


def is_still(
    output: NotebookNode,  # of a cell
) -> bool:
    "Whether an output shows something without a kernel: progress bars do not."
    return WIDGET not in output.get("data", {}) or any(kind.startswith("image/") for kind in output.data)


def still(
    output: NotebookNode,  # of a cell
) -> NotebookNode:
    "An output without its widget: what is left is its image."
    output.get("data", {}).pop(WIDGET, None)
    return output


def unsolved_notebook(
    solved: NotebookNode,
) -> NotebookNode:
    "A lesson as students get it: exercises blank and without outputs, other cells as they are."
    lesson = deepcopy(solved)
    for cell in lesson.cells:
        blank = unsolved(cell.source)
        if blank != cell.source:
            cell.source, cell.outputs = blank, []
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [still(output) for output in cell.outputs if is_still(output)]
            cell.metadata = NotebookNode(tags=cell.metadata.tags) if cell.metadata.get("tags") else NotebookNode()
    lesson.metadata = NotebookNode(kernelspec=solved.metadata.kernelspec)
    return lesson


def sources(notebook: NotebookNode) -> list[tuple[str, str]]:
    "Kind and text of all cells."
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def out_of_step() -> list[str]:
    "Lessons that are not what their solved twin makes of them."
    names = {path.name for folder in (SOLVED, LESSONS) for path in folder.glob("*.ipynb")}
    wrong = []
    for name in sorted(names):
        twins = SOLVED / name, LESSONS / name
        if not all(path.is_file() for path in twins):
            wrong.append(name)
            continue
        solved, lesson = (nbformat.read(path, 4) for path in twins)
        if sources(unsolved_notebook(solved)) != sources(lesson):
            wrong.append(name)
    return wrong


def make_lesson(
    path: Path,  # of the solved lesson
) -> None:
    "Run a solved lesson and write what students get."
    solved = nbformat.read(path, 4)
    NotebookClient(solved, timeout=1800, resources=dict(metadata=dict(path=str(path.parent)))).execute()
    nbformat.write(unsolved_notebook(solved), LESSONS / path.name)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        wrong = out_of_step()
        sys.exit(f"run python docs/make_lessons.py {' '.join(name[:2] for name in wrong)}" if wrong else 0)
    for path in sorted(SOLVED.glob("*.ipynb")):
        if len(sys.argv) == 1 or path.name.startswith(tuple(sys.argv[1:])):
            make_lesson(path)
            print(LESSONS / path.name)
