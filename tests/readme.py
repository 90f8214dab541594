"Render README.md from nbs/index.ipynb: its text, its code and the results below it."

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent


def from_the_root(match: re.Match) -> str:
    "A link as it reads from the repository's root: notebooks lie in nbs/, everything else beside it."
    opening, path = match.groups()
    return opening + (path.removeprefix("../") if path.startswith("../") else f"nbs/{path}")


def render(
    notebook: Path = root / "nbs" / "index.ipynb",
) -> str:  # the README's text
    "Hidden cells are left out, `#| hide_input` leaves the output only, and links start at the repository's root."
    nb = nbformat.read(notebook, 4)
    nb.cells = [c for c in nb.cells if "#| hide\n" not in c.source + "\n"]
    for c in nb.cells:
        if c.cell_type != "code":
            continue
        c.metadata["transient"] = dict(remove_source="#| hide_input" in c.source)
        c.source = "\n".join(line for line in c.source.splitlines() if not line.startswith("#|"))
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"(\]\()(?!https?:|#|data:)([^)\s]+)", from_the_root, text)
    head = "<!-- made from nbs/index.ipynb by `make export`; edit that one -->\n\n"
    return head + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "README.md"
    out.write_text(render(), encoding="utf-8")
