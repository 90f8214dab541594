"""Fill the tables of docs/results.md from data/results: `python docs/write_tables.py`. Nobody types a figure."""

import json
import re
from pathlib import Path

from icportrait.evaluation.matchers import matcher_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results.md"


def figures(name: str) -> dict:
    "The figures of a kept result."
    return json.loads((ROOT / "data" / "results" / f"{name}.json").read_text(encoding="utf-8"))["figures"]


def with_interval(part: dict, name: str) -> str:
    "A figure with its interval, to two decimals below ten and one above."
    digits = 2 if abs(part[name]) < 10 else 1
    low, high = part["interval"][name]
    return f"{part[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def matched(part: dict, name: str) -> str:
    "A figure of one matcher, for all pairs and for those whose views are far apart."
    return f"{with_interval(part, name)}, wide {with_interval(part, name + '_wide')}"


def demo_table() -> str:
    "The demo's figures beside their controls."
    found = figures("demo")
    m, p, r = found["matching"], found["portrait"], found["relighting"]
    names = dict(identity="identity flow", zero_shot="the base's features", dift="the same, image by image")
    rows = []
    titles = {
        "pck@0.1": "matching, PCK@0.1 of the head's size",
        "pck@0.05": "matching, PCK@0.05 of the head's size",
        "pck@0.02": "matching, PCK@0.02 of the head's size",
        "epe_px": "matching, end-point error in pixels of 128",
    }
    for name, title in titles.items():
        others = "; ".join(f"{text} {matched(m[k], name)}" for k, text in names.items())
        others += f"; target not masked {matched(m['trained_unmasked'], name)}"
        rows.append((title, matched(m["trained"], name), others))
    confidence = with_interval(m["trained"], "calibration_error")
    rows.append(("matching, calibration error of the confidence", confidence, "0: a probability"))
    controls = {
        "rank1": (f"portraits, rank-1 of {p['identities']} people", "shuffled_profile lighting_person ceiling"),
        "light_error_deg": ("portraits, light error in degrees (median)", "wrong_light constant_light ceiling"),
        "psnr": ("portraits, PSNR in dB", "shuffled_profile copy_profile copy_lighting"),
    }
    said = dict(
        shuffled_profile="shuffled profile",
        lighting_person="the lighting image's person",
        ceiling="real images",
        wrong_light="wrong light",
        constant_light="constant light",
        copy_profile="profile copied",
        copy_lighting="lighting image copied",
        copy_input="input copied",
        interpolated="visible pixels interpolated",
    )
    for name, (title, others) in controls.items():
        beside = "; ".join(f"{said[o]} {with_interval(p, f'{name}_{o}')}" for o in others.split())
        rows.append((title, with_interval(p, name), beside))
    rows.append(("portraits, PSNR on the head in dB", with_interval(p, "psnr_head"), ""))
    beside = "; ".join(f"{said[o]} {with_interval(r, f'psnr_{o}')}" for o in ("copy_input", "interpolated"))
    rows.append(("relighting by the masked answer, PSNR in dB", with_interval(r, "psnr"), beside))
    copied = f"input copied {with_interval(r, 'psnr_copy_input')}"
    rows.append(("relighting by a mannequin, PSNR in dB", with_interval(r, "psnr_mannequin"), copied))
    return table(rows)


def with_deviation(found: dict) -> str:
    "A KID and its standard deviation over subsets."
    return f"{found['kid']:.3f} ± {found['kid_std']:.3f}"


def portraits_table() -> str:
    "Three tasks on the test set, with what the best possible and the laziest answers have."
    found = figures("portraits")
    tasks = dict(portrait="another's image", portrait_mannequin="a mannequin's image", relighting="relighting")
    names = {
        "psnr": "PSNR, dB",
        "psnr_head": "on the head",
        "psnr_copy_profile": "of the copied profile",
        "ssim": "SSIM",
        "light_error_deg": "light error, degrees (median)",
        "light_error_deg_ceiling": "of the ground truth",
        "light_error_deg_constant_light": "of a constant light",
        "rank1": f"rank-1 of {found['identities']}",
        "rank1_ceiling": "of the ground truth",
        "rank1_lighting_person": "the lighting image's person",
        "similarity": "likeness to the ground truth, cosine",
        "similarity_lighting_image": "to the lighting image",
        "colour_error_skin": "colour of the skin, ΔE",
        "colour_error_hair": "of the hair",
        "detail": "detail over the ground truth's",
    }
    rows = [(title, *(with_interval(found[task], name) for task in tasks)) for name, title in names.items()]
    rows.append(("KID to renders", *(with_deviation(found[task]) for task in tasks)))
    coded = found["autoencoder"]
    sentences = (
        f"The ground truth through the autoencoder: {with_interval(coded, 'psnr')} dB",
        f"detail {with_interval(coded, 'detail')}, KID {with_deviation(coded)}",
        f"KID of the ground truth, averaged over 3 x 3 pixels: {with_deviation(found['blurred'])}",
        f"of other renders of these people: {with_deviation(found['other_renders'])}.",
    )
    text = f"{sentences[0]}, {sentences[1]}. {'; '.join(sentences[2:])}"
    return table(rows, ("figure", *tasks.values())) + f"\n\n{text}"


def dissect_table() -> str:
    "What leaving a part of a portrait's making out changes, or the ground truth in its place."
    names = dict(
        psnr="PSNR, dB", psnr_head="on the head", light_error_deg="light, degrees", rank1="rank-1", detail="detail"
    )
    rows = []
    for variant, its in figures("dissect-portraits").items():
        if variant == "verdicts":
            continue
        cells = [f"{its[name]:.2f}" for name in names]
        if variant != "as it is":
            changes = [its["difference"][name] for name in names]
            cells = [f"{c} ({m:+.2f} [{low:+.2f}, {high:+.2f}])" for c, (m, low, high) in zip(cells, changes)]
        rows.append((variant, *cells))
    return table(rows, ("variant", *names.values()))


def rivals_table() -> str:
    "Portraits and relighting beside what needs no training."
    names = dict(
        psnr="PSNR, dB",
        psnr_head="on the head",
        light_error_deg="light, degrees",
        rank1="rank-1",
        similarity="likeness",
        detail="detail",
    )
    found = figures("rivals")
    rows = []
    for task, title in (("portrait", "another view"), ("relighting", "another light")):
        for name, its in found[task].items():
            rows.append((title, name, *(with_interval(its, k) for k in names)))
    return table(rows, ("task", "maker", *names.values()))


def ablations_table() -> str:
    "What a portrait loses that is trained without one thing."
    names = {
        "portrait.psnr_head": "PSNR on the head, dB",
        "portrait.light_error_deg": "light, degrees",
        "portrait.rank1": "rank-1",
        "portrait.rank1_lighting_person": "lighting image's person",
        "portrait.similarity": "likeness",
        "relighting.psnr_head_mannequin": "relit, on the head, dB",
    }
    groups = figures("ablations")["groups"]
    rows = [(name, *(f"{group[k]['mean']:.2f}" for k in names)) for name, group in groups.items()]
    return table(rows, ("what is changed", *names.values()))


def matchers_table() -> str:
    "The Matching Net beside its baselines, masked and whole."
    found = figures("matchers")["matchers"]
    return matcher_table(found, ("pck@0.1", "pck@0.05", "pck@0.02", "epe_px"))


def base_table() -> str:
    "What the base has learned, the strict floor first."
    found = figures("base")
    a, u, w = found["autoencoder"], found["unet"], found["prompts"]
    accident = f"{w['hits_by_accident']:.2f} by chance, {w['hits_of_renders']:.2f} in renders themselves"
    rows = [
        (
            "KID to renders, over that of held-out renders",
            f"{u['kid_ratio_held_out']:.1f}",
            "1: another set of renders",
        ),
        ("FID to renders, over that of two halves of them", f"{u['fid_ratio_split_half']:.1f}", "1: another half"),
        ("FID to renders, over that of held-out renders", f"{u['fid_ratio_held_out']:.2f}", "1: as held-out renders"),
        (
            "distance to the nearest training render, over held-out ones'",
            f"{u['nearest_train_ratio']:.2f}",
            "0: copies",
        ),
        ("share of prompted attributes that a classifier finds", f"{w['hits']:.2f}", accident),
        ("autoencoder, PSNR on held-out identities in dB", f"{a['psnr']:.1f}", ""),
    ]
    return table(rows)


def over_seeds(part: dict, name: str) -> str:
    "A figure of several runs, with its interval over seeds, to two decimals."
    low, high = part[name]["low"], part[name]["high"]
    return f"{part[name]['mean']:.2f} [{low:.2f}, {high:.2f}]"


def learner_table() -> str:
    "PCK@0.05 after so many steps, by what trains."
    groups = figures("fast-learner")["groups"]
    steps = [0, 10, 25, 50, 100, 200, 400]
    rows = [(name, *(over_seeds(group, f"pck@0.05.{step}") for step in steps)) for name, group in groups.items()]
    return table(rows, ("what trains", *(f"{step} steps" for step in steps)))


LEARNED = {
    "pck@0.1": "pck@0.1",
    "pck@0.05": "pck@0.05",
    "pck@0.05_wide": "wide",
    "pck@0.02": "pck@0.02",
    "epe_px": "epe_px",
}


def matters_table() -> str:
    "What matching learns in a hundred steps, one change at a time."
    groups = figures("what-matters")["groups"]
    rows = [(name, *(over_seeds(group, f"final.{k}") for k in LEARNED)) for name, group in groups.items()]
    return table(rows, ("what is changed", *LEARNED.values()))


def unsupervised_table() -> str:
    "What matching learns from what somebody without a renderer has."
    groups = figures("without-ground-truth")["groups"]
    rows = [(name, *(over_seeds(group, f"final.{k}") for k in LEARNED)) for name, group in groups.items()]
    untrained = next(iter(groups.values()))
    for title, key in (("base's features, image by image", "dift"), ("identity flow", "identity")):
        rows.append((title, *(f"{untrained[f'{key}.{k}']['mean']:.2f}" for k in LEARNED)))
    return table(rows, ("learned from", *LEARNED.values()))


def photographs_table() -> str:
    "End-point errors on a photograph, turned and lit anew."
    found = figures("photographs")["photographs"]
    columns = [(change, kind) for change, kinds in next(iter(found.values())).items() for kind in kinds]
    rows = []
    for name, by in found.items():
        cells = [by[change][kind] for change, kind in columns]
        rows.append((name, *(f"{c['epe_px']:.1f} [{c['interval'][0]:.1f}, {c['interval'][1]:.1f}]" for c in cells)))
    return table(rows, ("matcher", *(f"{change}, {kind}" for change, kind in columns)))


def table(rows: list[tuple], head: tuple = ("what", "figure", "controls")) -> str:
    "Rows as Markdown."
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def filled(text: str) -> str:
    "The page with its tables as the kept results have them."
    tables = dict(demo=demo_table, portraits=portraits_table, matchers=matchers_table, base=base_table)
    tables |= dict(
        dissect=dissect_table,
        matters=matters_table,
        unsupervised=unsupervised_table,
        learner=learner_table,
        photographs=photographs_table,
        rivals=rivals_table,
        ablations=ablations_table,
    )
    for name, write in tables.items():
        text, found = re.subn(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", rf"\g<1>{write()}\g<2>", text, flags=re.S)
        if found != 1:
            raise SystemExit(f"docs/results.md: {found} places for the table {name!r}, not one")
    return text


if __name__ == "__main__":
    RESULTS.write_text(filled(RESULTS.read_text(encoding="utf-8")), encoding="utf-8")
