"""Draw which wing imports which, read from the modules: `python docs/draw_imports.py` writes docs/imports.png."""

import ast
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
WINGS = {  # from the ground floor up: what each is about
    "ground": "files, images, devices",
    "world": "what is rendered",
    "dataset": "what is stored",
    "model": "what is learned",
    "training": "how",
    "evaluation": "how well",
    "bench": "experiments",
    "explore": "widgets",
    "cli": "commands",
}


def wing_of(module: str) -> str:
    "The wing of a module such as `icportrait.world.heads`; files and images are the ground floor."
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "ground"


def imported_modules(path: Path) -> set[str]:
    "Modules of this package that a file imports, inside functions too, as absolute names."
    here = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = here.split(".")[: -node.level] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            found |= {module} | {f"{module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in modules()}
    return found & files


def modules() -> list[Path]:
    "The modules of the package, without what nbdev and the packages' doors are made of."
    return sorted(p for p in (ROOT / "icportrait").rglob("*.py") if not p.name.startswith("_"))


def wing_imports() -> Counter:  # (from, to) -> modules that import
    "How many modules of one wing import something of another."
    arrows = Counter()
    for path in modules():
        here = wing_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        wings = {wing_of(m) for m in imported_modules(path)}
        arrows.update((here, there) for there in wings - {here})
    return arrows


def draw(path: Path) -> Path:
    "A matrix: a row's wing imports a column's; everything lies below the diagonal, so nothing runs back."
    names, arrows = list(WINGS), wing_imports()
    counts = np.array([[arrows[row, column] for column in names] for row in names])
    figure = Figure(figsize=(7.6, 5.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.ma.masked_equal(counts, 0), cmap="Blues", vmin=0, vmax=2 * counts.max())
    axes.imshow(np.ma.masked_equal(np.triu(np.ones_like(counts), 0), 0), cmap="Greys", vmin=0, vmax=12)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, count, ha="center", va="center")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="left")
    axes.set_yticks(range(len(names)), [f"{name}  ({about})" for name, about in WINGS.items()])
    axes.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False, length=0)
    axes.set_title("modules of a row's wing that import from a column's wing", pad=14, fontsize=10)
    figure.savefig(path)
    return path


if __name__ == "__main__":
    print(draw(ROOT / "docs" / "imports.png"))
