"The evaluation of a base: its figures move the right way when samples are blurred, all alike, or copied."

import json

import pytest
import torch
from conftest import ROOT, here
from test_real_base import play

SMALL = dict(size=64, samples=96, sampling_steps=1, compare="", train_images=120, full_size_steps=-1)
KEYS = (
    "autoencoder.psnr",
    "unet.fid_ratio_split_half",
    "unet.kid_floor_split_half",
    "unet.fid_ratio_held_out",
    "unet.kid_floor_held_out",
    "unet.nearest_train_ratio",
    "unet.attribute_agreement",
    "pretraining.steps",
    "pretraining.images",
    "pretraining.seconds",
    "pretraining.hardware",
    "full_size.memory_gb",
    "prompts.hits",
    "prompts.hits_by_accident",
    "prompts.hits_of_renders",
)


def renders(split, seed):
    "Renders of people [96,3,64,64] in [0,1] of the small set."
    from icportrait.dataset.profiles import load_profiles
    from icportrait.dataset.storage import MANNEQUIN
    from icportrait.evaluation.attributes import draw_renders

    profiles = load_profiles("mini", split, progress=False)
    people = (profiles.identity != MANNEQUIN).nonzero()[0]
    return draw_renders(profiles, 96, 64, seed=seed, views=people).images / 255


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    "A function that evaluates images as if a base had drawn them; the classifier is trained the first time."
    folder = tmp_path_factory.mktemp("evaluated")

    def evaluate_images(name, images, **params):
        drawn = 0

        def sample_base(base, n, steps, generator=None, **kwargs):
            nonlocal drawn
            drawn += n
            return images[torch.arange(drawn - n, drawn) % len(images)]

        trained = next((str(p) for p in folder.glob("*/classifier-*")), "")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("icportrait.model.diffusion.sample_base", sample_base)
            return play("evaluate_base", folder / name, **SMALL | dict(classifier=trained) | params)

    return evaluate_images


@pytest.fixture(scope="module")
def good(evaluate):
    training = dict(classifier_steps=300, classifier_images=320)
    return evaluate("good", renders("held-out", 77), full_size_steps=0, **training)


def test_renders_pass(good):
    "Renders of held-out identities are as far from renders as such renders are, and are no copies."
    unet = good["unet"]
    assert 0.7 < unet["fid_ratio_held_out"] < 1.3
    assert unet["nearest_train_ratio"] > 0.85
    assert unet["attribute_agreement"] > 0.8


def test_both_distances_over_both_floors(good):
    "No ratio without its distance and its floor beside it; KID has none where its floor is within its noise."
    unet = good["unet"]
    assert unet["fid_ratio_held_out"] == pytest.approx(unet["fid"] / unet["fid_floor_held_out"], abs=1e-3)
    if unet["kid_ratio_held_out"] is not None:
        assert unet["kid_ratio_held_out"] == pytest.approx(unet["kid"] / unet["kid_floor_held_out"], abs=0.05)
    assert unet["fid_floor_split_half"] > 0 and unet["fid_ratio_split_half"] > 0
    ratios = [k for k in unet if "_ratio_" in k and not k.startswith("nearest")]
    assert ratios[0].endswith("split_half"), "the strict floor comes first"


def test_blur_is_noticed(evaluate, good):
    from icportrait.evaluation.attributes import blur

    smears = evaluate("smears", blur(renders("held-out", 77), 3.0))["unet"]
    assert smears["fid_ratio_held_out"] > 1.2 * good["unet"]["fid_ratio_held_out"]
    assert smears["kid"] > good["unet"]["kid"] + 0.1
    sensitivity = good["sensitivity"]
    assert sensitivity["blur"][-1] > 1.1 * sensitivity["blur"][0]
    assert sensitivity["noise"][-1] > sensitivity["noise"][0]


def test_copies_are_found(evaluate, good):
    "Training images with a little noise: the very ones, under the light that they were trained in."
    from icportrait.dataset.profiles import load_profiles
    from icportrait.evaluation.attributes import draw_renders

    training = draw_renders(load_profiles("mini", "train", progress=False), 120, 64, seed=0).images[20:116] / 255
    noise = torch.randn(training.shape, generator=torch.Generator().manual_seed(0))
    copied = evaluate("copied", (training + 0.02 * noise).clamp(0, 1))["unet"]
    assert copied["nearest_train_ratio"] < 0.35
    assert copied["copied_share"] > 0.9 > 0.3 > good["unet"]["copied_share"]
    assert all(o["noisy_training_images"] < 0.35 for o in good["memorisation"].values())


def test_one_head_only(evaluate, good):
    "A base that always draws the same shows too little of what renders show."
    figures = evaluate("same", renders("held-out", 77)[:1].repeat(96, 1, 1, 1))
    unet = figures["unet"]
    assert unet["attribute_agreement"] < good["unet"]["attribute_agreement"] - 0.2
    assert unet["fid_ratio_held_out"] > 1.5
    assert figures["prompts"]["hits"] < good["prompts"]["hits_of_renders"] - 0.2, "it does not follow its prompts"


def test_result(good, tmp_path, monkeypatch):
    "All figures that `icportrait results base --json` promises, and how they were measured."
    from icportrait.bench.results import flat

    flat_figures = flat(good)
    assert [k for k in KEYS if k not in flat_figures] == []
    assert good["pretraining"]["images"] >= good["pretraining"]["steps"] > 0
    assert all("icportrait run" in command for command in good["commands"].values())
    assert good["verdicts"] and set(good["verdicts"].values()) <= {"yes", "no", "cannot tell"}
    folder = tmp_path / "data" / "results"
    folder.mkdir(parents=True)
    for name in "nbs", "settings.ini":
        (tmp_path / name).symlink_to(ROOT / name)
    (folder / "base.json").write_text(json.dumps(dict(name="base", provenance={}, figures=good)))
    monkeypatch.setenv("ICPORTRAIT_HOME", str(tmp_path))
    done = here("results", "base", "--json")
    assert done.returncode == 0
    shown = json.loads(done.stdout)["figures"]["unet"]
    assert shown["fid_ratio_held_out"] == good["unet"]["fid_ratio_held_out"]


def test_the_base_that_ships():
    "Its kept figures: it obeys more than by accident, its samples are no copies, and both floors are there."
    from icportrait.bench.results import read_result

    figures = read_result("base")["figures"]
    unet, prompts = figures["unet"], figures["prompts"]
    assert prompts["hits"] > prompts["hits_by_accident"] + 0.15
    assert unet["nearest_train_ratio"] > 0.9
    assert unet["fid_ratio_split_half"] < 3
    assert unet["kid_ratio_held_out"] == pytest.approx(unet["kid"] / unet["kid_floor_held_out"], abs=1e-3)
    assert unet["fid_ratio_held_out"] == pytest.approx(unet["fid"] / unet["fid_floor_held_out"], abs=1e-3)


def test_the_base_that_ships_reads_prompts():
    "With a prompt that says what a held-out image shows, it denoises that better than with another's, or with none."
    from icportrait.dataset.profiles import load_profiles
    from icportrait.dataset.storage import MANNEQUIN
    from icportrait.evaluation.attributes import draw_renders
    from icportrait.model.base import load_base
    from icportrait.model.diffusion import add_noise, denoising_loss, denoising_target, encode

    profiles = load_profiles("mini", "held-out", progress=False)
    base = load_base("small")
    people = (profiles.identity != MANNEQUIN).nonzero()[0]
    shown = draw_renders(profiles, 48, seed=5, views=people)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = encode(base.vae, shown.images / 255)
        noise = torch.randn(z.shape, generator=generator)
        t = torch.linspace(500, 990, len(z)).long()
        noisy = add_noise(base.scheduler, z, noise, t)
        target = denoising_target(base.scheduler, z, noise, t)

        def loss(ids):
            prediction = base.unet(noisy, t, base.text_encoder(ids)[0]).sample
            return denoising_loss(prediction, target, base.scheduler, t).item()

        ids = base.tokenizer.ids(shown.labels)
        right = loss(ids)
        wrong = loss(ids.roll(7, 0))
        empty = loss(base.tokenizer.ids({}, len(z)))
    assert right < 0.97 * empty and right < 0.95 * wrong, (right, empty, wrong)
