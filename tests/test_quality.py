"The judge of a base: it gives all figures, and they move the right way when samples are blurred, all alike, or copied."

import json

import pytest
import torch
from conftest import ROOT, here
from test_real_base import play

SMALL = dict(size=64, samples=96, sampling_steps=1, compare="", train_pictures=120, full_size_steps=-1)
KEYS = (
    "autoencoder.psnr",
    "unet.fid_ratio",
    "unet.nearest_train_ratio",
    "unet.attribute_agreement",
    "pretraining.steps",
    "pretraining.images",
    "pretraining.seconds",
    "pretraining.hardware",
    "full_size.memory_gb",
    "words.hits.mean",
    "words.renders.mean",
)


def renders(split, seed):
    "Pictures [n,3,H,W] in [0,1] of the small set."
    from icportrait.dataset.profiles import load_profiles
    from icportrait.dataset.storage import MANNEQUIN
    from icportrait.evaluation.attributes import draw_renders

    profiles = load_profiles("mini", split, progress=False)
    return draw_renders(profiles, 96, 64, seed=seed, views=(profiles.identity != MANNEQUIN).nonzero()[0]).images / 255


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    "A function that judges pictures as if a base had drawn them; the encoder is trained the first time."
    folder, patch = tmp_path_factory.mktemp("judged"), pytest.MonkeyPatch()

    def judge(name, pictures, **params):
        def draw(base, n, steps, generator=None, **how):
            draw.at += n
            return pictures[torch.arange(draw.at - n, draw.at) % len(pictures)]

        draw.at = 0
        patch.setattr("icportrait.base.sample_base", draw)
        try:
            return play(
                "evaluate_base",
                folder / name,
                **SMALL | dict(encoder=next(map(str, folder.glob("*/encoder-*")), "")) | params,
            )
        finally:
            patch.undo()

    return judge


@pytest.fixture(scope="module")
def good(judged):
    return judged("good", renders("held-out", 77), encoder_steps=300, encoder_pictures=320, full_size_steps=0)


def test_renders_pass(good):
    "Renders of people whom nobody has seen are as far from renders as such renders are, and are no copies."
    assert (
        0.7 < good["unet"]["fid_ratio"] < 1.3
        and good["unet"]["nearest_train_ratio"] > 0.85
        and good["unet"]["attribute_agreement"] > 0.8
    )


def test_blur_is_seen(judged, good):
    from icportrait.evaluation.attributes import blur

    smears = judged("smears", blur(renders("held-out", 77), 3.0))["unet"]
    assert smears["fid_ratio"] > 1.2 * good["unet"]["fid_ratio"] and smears["kid"] > good["unet"]["kid"] + 0.1
    assert (
        good["sensitivity"]["blur"][-1] > 1.1 * good["sensitivity"]["blur"][0]
        and good["sensitivity"]["grain"][-1] > good["sensitivity"]["grain"][0]
    )


def test_copies_are_found(judged, good):
    "Training pictures with a little grain: the very ones, under the light that they were seen in."
    from icportrait.dataset.profiles import load_profiles
    from icportrait.evaluation.attributes import draw_renders

    seen = draw_renders(load_profiles("mini", "train", progress=False), 120, 64, seed=0).images[20:116] / 255
    copied = judged(
        "copied", (seen + 0.02 * torch.randn(seen.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    )
    assert (
        copied["unet"]["nearest_train_ratio"] < 0.35
        and copied["unet"]["copied_share"] > 0.9 > 0.3 > good["unet"]["copied_share"]
    )
    assert all(o["noisy_training_pictures"] < 0.35 for o in good["memorising"].values())


def test_one_head_only(judged, good):
    "A base that always draws the same shows too little of what renders show."
    judgement = judged("same", renders("held-out", 77)[:1].repeat(96, 1, 1, 1))
    same = judgement["unet"]
    assert same["attribute_agreement"] < good["unet"]["attribute_agreement"] - 0.2 and same["fid_ratio"] > 1.5
    assert judgement["words"]["hits"]["mean"] < good["words"]["renders"]["mean"] - 0.2, "it does not do as it is told"


def test_result(good, tmp_path, monkeypatch):
    "All figures that `icportrait results base --json` promises, and how they were measured."
    from icportrait.bench.results import flat

    flat_figures = flat(good)
    assert [k for k in KEYS if k not in flat_figures] == []
    assert good["pretraining"]["images"] >= good["pretraining"]["steps"] > 0 and all(
        "icportrait run" in o for o in good["commands"].values()
    )
    folder = tmp_path / "data" / "results"
    folder.mkdir(parents=True)
    for name in "nbs", "settings.ini":
        (tmp_path / name).symlink_to(ROOT / name)
    (folder / "base.json").write_text(json.dumps(dict(name="base", provenance={}, figures=good)))
    monkeypatch.setenv("ICPORTRAIT_HOME", str(tmp_path))
    told = here("results", "base", "--json")
    assert (
        told.returncode == 0 and json.loads(told.stdout)["figures"]["unet"]["fid_ratio"] == good["unet"]["fid_ratio"]
    )


def test_the_base_that_ships():
    "What is told of it: it obeys more than by accident, and its samples are no copies."
    from icportrait.bench.results import read_result

    said = read_result("base")["figures"]
    assert (
        said["words"]["hits"]["mean"] > said["words"]["untold"]["mean"] + 0.15
        and said["unet"]["nearest_train_ratio"] > 0.9
        and said["unet"]["fid_ratio"] < 3
    )


def test_the_base_that_ships_knows_its_words():
    "Told what a held-out picture shows, it denoises that better than when it is told what another one shows, and better than untold."
    from icportrait.dataset.profiles import load_profiles
    from icportrait.dataset.storage import MANNEQUIN
    from icportrait.evaluation.attributes import draw_renders
    from icportrait.model.base import load_base
    from icportrait.model.diffusion import add_noise, denoising_loss, denoising_target, encode

    profiles, base = load_profiles("mini", "held-out", progress=False), load_base("small")
    shown = draw_renders(profiles, 48, seed=5, views=(profiles.identity != MANNEQUIN).nonzero()[0])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = encode(base.vae, shown.images / 255)
        noise, t = torch.randn(z.shape, generator=generator), torch.linspace(500, 990, len(z)).long()
        noisy, target = add_noise(base.scheduler, z, noise, t), denoising_target(base.scheduler, z, noise, t)
        loss = lambda ids: denoising_loss(
            base.unet(noisy, t, base.text_encoder(ids)[0]).sample, target, base.scheduler, t
        ).item()
        ids = base.tokenizer.ids(shown.labels)
        told, lied, untold = loss(ids), loss(ids.roll(7, 0)), loss(base.tokenizer.ids({}, len(z)))
    assert told < 0.97 * untold and told < 0.95 * lied, (told, untold, lied)
