"""Draw the method as one picture: `python docs/draw_method.py` writes docs/method.png."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BOXES = {  # name -> (x, y, width, text, colour)
    "profile": (0.0, 2.2, 1.25, "profile\nwho", "#fdf3e3"),
    "lighting": (0.0, 0.6, 1.25, "lighting image\n80 % masked\npose and light", "#fdf3e3"),
    "matching": (2.1, 2.2, 1.5, "Matching Net\nLoRA, 200 steps", "#e6f0fa"),
    "light": (2.1, 0.6, 1.5, "light reader\nnine harmonics", "#e6f0fa"),
    "warped": (4.3, 2.2, 1.55, "warped profile\nand confidence", "#f2f2f2"),
    "denoiser": (4.3, 0.6, 1.55, "Concatenation Net\nbase with LoRA", "#e6f0fa"),
    "refiner": (6.55, 0.6, 1.35, "refiner\nlight and detail", "#e6f0fa"),
    "portrait": (8.5, 0.6, 1.05, "portrait", "#fdf3e3"),
}
ARROWS = [
    ("profile", "matching"),
    ("lighting", "matching"),
    ("lighting", "light"),
    ("matching", "warped"),
    ("warped", "denoiser"),
    ("light", "denoiser"),
    ("denoiser", "refiner"),
    ("warped", "refiner"),
    ("refiner", "portrait"),
]
ELBOWS = [  # corners of a line that ends in an arrow, and its style
    ([(0.6, 0.19), (0.6, 0.06), (5.0, 0.06), (5.0, 0.19)], "-"),  # masked image -> denoiser
    ([(5.0, 0.06), (7.2, 0.06), (7.2, 0.19)], "-"),  # masked image -> refiner
    ([(0.6, 2.61), (0.6, 2.75), (7.5, 2.75), (7.5, 1.01)], "-"),  # profile -> refiner
    ([(3.95, 2.75), (3.95, 1.4), (4.6, 1.4), (4.6, 1.01)], "-"),  # profile -> denoiser
    ([(3.2, 0.19), (3.2, 0.12), (7.0, 0.12), (7.0, 0.19)], "-"),  # light -> refiner
    ([(5.5, 1.01), (5.5, 1.58), (2.85, 1.58), (2.85, 1.79)], "--"),  # portrait so far -> matching
]


def edge(name: str, other: str) -> tuple[float, float]:
    "Where an arrow between two boxes meets the first."
    (x, y, w, *_), (u, v, *_) = BOXES[name], BOXES[other]
    if x == u:
        return x + w / 2, y + (0.42 if v > y else -0.42)
    return (x + w if u > x else x), y + (0.15 if v > y else -0.15 if v < y else 0)


def draw(path: Path) -> Path:
    "Boxes from left to right: two images in, one portrait out."
    figure = Figure(figsize=(9.6, 3.1), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.1, 9.65), ylim=(0, 2.9))
    axes.set_axis_off()
    for x, y, width, text, colour in BOXES.values():
        box = FancyBboxPatch((x, y - 0.38), width, 0.76, boxstyle="round,pad=0.03", fc=colour, ec="#5b6b7a")
        axes.add_patch(box)
        axes.text(x + width / 2, y, text, ha="center", va="center", size=9)
    for a, b in ARROWS:
        style = dict(arrowstyle="-|>", mutation_scale=12, color="#5b6b7a", shrinkA=3, shrinkB=3)
        axes.add_patch(FancyArrowPatch(edge(a, b), edge(b, a), **style))
    for corners, line in ELBOWS:
        x, y = zip(*corners[:-1])
        axes.plot(x, y, line, color="#5b6b7a", lw=1)
        style = dict(arrowstyle="-|>", mutation_scale=12, color="#5b6b7a", shrinkA=0, shrinkB=0)
        axes.add_patch(FancyArrowPatch(corners[-2], corners[-1], **style))
    axes.text(2.95, 1.61, "matched again", size=7, color="#5b6b7a", va="bottom")
    figure.savefig(path)
    return path


if __name__ == "__main__":
    print(draw(Path(__file__).resolve().parent / "method.png"))
