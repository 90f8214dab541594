"Render README.md from nbs/index.ipynb: its text, its code and the results below it."

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent


def render(notebook=root / "nbs" / "index.ipynb"):
    "The README's text. Hidden cells are left out, and links are made relative to the repository's root."
    nb = nbformat.read(notebook, 4)
    nb.cells = [c for c in nb.cells if "#| hide" not in c.source]
    for c in nb.cells:
        if c.cell_type == "code":
            c.source = "\n".join(l for l in c.source.splitlines() if not l.startswith("#|"))
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\]\(\.\./", "](", text)  # ../CONTRIBUTING.md
    text = re.sub(r"\]\((?!https?:|#|data:)(?=[\w-]+(/[\w-]+)*\.ipynb)", "](nbs/", text)  # 06_matching.ipynb
    text = re.sub(r'(<img[^>]*src=")\.\./', r"\1", text)
    head = "<!-- made from nbs/index.ipynb by `make export`; edit that one -->\n\n"
    return head + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "README.md"
    out.write_text(render(), encoding="utf-8")
