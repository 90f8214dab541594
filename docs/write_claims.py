"""Fill the tables of docs/claims.md from data/results: `python docs/write_claims.py`. Verdicts are computed."""

import re
from dataclasses import dataclass
from pathlib import Path

from write_tables import figures

from icportrait.evaluation.metrics import verdict

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = ROOT / "docs" / "claims.md"
Range = tuple[float, float, float]  # a figure, and its 95 % interval


def measured(part: dict, name: str) -> Range:
    "A figure with its interval over people."
    return part[name], *part["interval"][name]


def over_seeds(part: dict, name: str) -> Range:
    "A figure of several runs, with its interval over seeds."
    return part[name]["mean"], part[name]["low"], part[name]["high"]


def listed(values: list[float]) -> Range:
    "A figure that is kept as a list with its interval."
    middle, low, high = values
    return middle, low, high


@dataclass(frozen=True)
class Evidence:
    "A figure that should be better than its control."

    what: str
    result: str  # the kept result that it comes from
    figure: Range
    control: str
    controls: Range
    higher: bool = True  # whether more is better

    def row(self) -> tuple[str, ...]:
        "As a row of the table."
        answer = verdict(self.figure[1:], self.controls[1:], self.higher)
        beside = f"{self.control}: {number(self.controls)}"
        return self.what, number(self.figure), beside, f"**{answer}**", f"`icportrait results {self.result}`"


def number(found: Range) -> str:
    "A figure and its interval, to three digits."
    digits = 2 if abs(found[0]) < 10 else 1
    middle, low, high = (f"{x:.{digits}f}" for x in found)
    return f"{middle} [{low}, {high}]"


def fast_learners() -> list[Evidence]:
    "Claim 1."
    groups = figures("fast-learner")["groups"]
    ours = groups["pretrained, LoRA"]
    rows = [
        Evidence(
            f"PCK@0.05 after {steps} steps of LoRA",
            "fast-learner",
            over_seeds(ours, f"pck@0.05.{steps}"),
            "on a random network",
            over_seeds(groups["random network, LoRA"], f"pck@0.05.{steps}"),
        )
        for steps in (100, 200)
    ]
    linear = over_seeds(groups["pretrained, linear head"], "pck@0.05.200")
    rows.append(
        Evidence(
            "the same after 200 steps",
            "fast-learner",
            over_seeds(ours, "pck@0.05.200"),
            "a linear head on the base's features",
            linear,
        )
    )
    found = figures("matching")
    zero_shot = measured(found["zero_shot"], "pck@0.05")
    matched = measured(found["trained"], "pck@0.05")
    return [
        *rows,
        Evidence("PCK@0.05 of 200 steps, over people", "matching", matched, "the base's features", zero_shot),
    ]


def stitching() -> list[Evidence]:
    "Claim 2."
    found = figures("portraits")
    portrait, mannequin = found["portrait"], found["portrait_mannequin"]
    rows = [
        Evidence(
            f"light error in degrees, read through the mask from {who}",
            "portraits",
            measured(part, "light_error_deg"),
            "a constant light",
            measured(part, "light_error_deg_constant_light"),
            higher=False,
        )
        for who, part in (("somebody's image", portrait), ("a mannequin's", mannequin))
    ]
    rows.append(
        Evidence(
            "share of portraits that show the lighting image's person",
            "portraits",
            measured(portrait, "rank1_lighting_person"),
            "that show the profile's",
            measured(portrait, "rank1"),
            higher=False,
        )
    )
    groups = figures("what-matters")["groups"]
    masked, half = (over_seeds(groups[k], "final.pck@0.05") for k in ("as it is", "half of the pixels masked"))
    rows.append(Evidence("matching with 80 % masked, PCK@0.05", "what-matters", masked, "half masked", half))
    return rows


def adaptation() -> list[Evidence]:
    "Claim 3."
    groups = figures("without-ground-truth")["groups"]
    taught, denoised = (over_seeds(groups[k], "final.pck@0.05") for k in ("the renderer's matches", "denoising alone"))
    rows = [
        Evidence("PCK@0.05 with ground truth", "without-ground-truth", taught, "denoising alone", denoised),
    ]
    turned = figures("photographs")["photographs"]
    ours, flow = (turned[k]["two lights"]["over 20°"] for k in ("Matching Net", "DIS optical flow"))
    rows.append(
        Evidence(
            "a photograph turned by more than 20°, end-point error in px",
            "photographs",
            (ours["epe_px"], *ours["interval"]),
            "optical flow",
            (flow["epe_px"], *flow["interval"]),
            higher=False,
        )
    )
    return rows


def coupling() -> list[Evidence]:
    "Claim 4."
    found = figures("portraits")["portrait"]
    names = {
        "rank1": "rank-1 of 100 people",
        "psnr": "PSNR in dB",
        "similarity": "likeness to the ground truth, cosine",
    }
    others = dict(
        rank1=("shuffled profile", "rank1_shuffled_profile"),
        psnr=("shuffled profile", "psnr_shuffled_profile"),
        similarity=("to the lighting image", "similarity_lighting_image"),
    )
    return [
        Evidence(text, "portraits", measured(found, name), others[name][0], measured(found, others[name][1]))
        for name, text in names.items()
    ]


def relighting() -> list[Evidence]:
    "Claim 5."
    found = figures("disentangled")
    matrix, sums = found["portraits"], found["linearity"]
    rows = [
        Evidence(
            "another light: change of identity (1 - cosine)",
            "disentangled",
            listed(matrix["light"]["identity"]),
            "another person",
            listed(matrix["person"]["identity"]),
            higher=False,
        ),
        Evidence(
            "another view: change of identity (1 - cosine)",
            "disentangled",
            listed(matrix["view"]["identity"]),
            "another person",
            listed(matrix["person"]["identity"]),
            higher=False,
        ),
        Evidence(
            "another person: change of light in degrees",
            "disentangled",
            listed(matrix["person"]["light"]),
            "another light",
            listed(matrix["light"]["light"]),
            higher=False,
        ),
        Evidence("lights add up, dB", "disentangled", listed(sums["sum"]), "one light", listed(sums["one_light"])),
    ]
    part = figures("portraits")["relighting"]
    ours, copied = measured(part, "psnr"), measured(part, "psnr_copy_profile")
    rows.append(Evidence("relit by a mannequin, PSNR in dB", "portraits", ours, "the input copied", copied))
    return rows


def table(rows: list[Evidence]) -> str:
    "Evidence as Markdown."
    head = "| experiment | figure [95 %] | control [95 %] | better? | shown by |"
    lines = [f"| {' | '.join(row.row())} |" for row in rows]
    return "\n".join([head, "| --- " * 5 + "|", *lines])


TABLES = dict(
    fast_learners=fast_learners, stitching=stitching, adaptation=adaptation, coupling=coupling, relighting=relighting
)


def filled(text: str) -> str:
    "The page with its tables as the kept results have them."
    for name, rows in TABLES.items():
        text, found = re.subn(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", rf"\g<1>{table(rows())}\g<2>", text, flags=re.S
        )
        if found != 1:
            raise SystemExit(f"docs/claims.md: {found} places for the table {name!r}, not one")
    return text


if __name__ == "__main__":
    CLAIMS.write_text(filled(CLAIMS.read_text(encoding="utf-8")), encoding="utf-8")
