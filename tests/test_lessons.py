"""Every lesson runs, its solutions pass, and an exercise that is still blank fails with a hint."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from make_lessons import LESSONS, SOLVED, out_of_step, unsolved  # noqa: E402

SOLVED_LESSONS = sorted(SOLVED.glob("*.ipynb"))
BLANK = """
try:
    exec({source!r})
except AssertionError as hint:
    assert str(hint), "an exercise without a hint"
else:
    raise RuntimeError("an exercise that passes as it is given")
"""


def test_students_lessons_are_in_step_with_the_solved_ones():
    assert SOLVED_LESSONS
    assert not out_of_step()


def test_what_students_get_has_no_solution():
    for path in LESSONS.glob("*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            assert "<solution>" not in cell.source, path


def fast(cell):
    "A cell of parameters with little of everything."
    slow = "fast: bool = False"
    assert slow in cell.source, "the parameters lack `fast`"
    return cell.source.replace(slow, "fast: bool = True")


@pytest.mark.parametrize("path", SOLVED_LESSONS, ids=lambda path: path.stem)
def test_lesson_runs_solved_and_fails_with_hints_unsolved(path):
    lesson = nbformat.read(path, 4)
    cells, exercises = [], 0
    for cell in lesson.cells:
        if cell.cell_type != "code":
            continue
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = fast(cell)
        blank = unsolved(cell.source)
        if blank != cell.source:
            cells.append(nbformat.v4.new_code_cell(BLANK.format(source=blank)))
            exercises += 1
        cells.append(cell)
    assert exercises >= 3
    lesson.cells = cells
    NotebookClient(lesson, timeout=600, resources=dict(metadata=dict(path=str(SOLVED)))).execute()
