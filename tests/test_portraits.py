"Portraits by what ships: one generator per image, diffusers' switches, and an error in place of a black image."

import json
import shutil

import pytest
import torch
from conftest import ROOT, error_line, here
from PIL import Image
from skimage.data import astronaut

PHOTO = Image.fromarray(astronaut()[:240, 110:350])
PHOTOS = [PHOTO, PHOTO.rotate(20)]


@pytest.fixture(scope="module")
def pipe():
    from icportrait.model.pipeline import load_pipeline

    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_each_image_depends_on_its_own_generator(pipe):
    both = pipe(PHOTOS, PHOTOS[::-1], generator=[seeded(1), seeded(2)], num_inference_steps=2)
    for i in range(2):
        alone = pipe(PHOTOS[i], PHOTOS[1 - i], generator=seeded(i + 1), num_inference_steps=2)
        assert torch.equal(both.masked[i], alone.masked[0])
        assert torch.allclose(both.images[i], alone.images[0], atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_generators_is_an_error(pipe, count):
    from icportrait import ICPortraitError

    with pytest.raises(
        ICPortraitError, match=f"2 image.* need one generator, or a list of 2: this list holds {count}"
    ):
        pipe(PHOTOS, PHOTOS, generator=[seeded(i) for i in range(count)])


def test_attention_slicing_makes_the_same_portrait(pipe):
    whole = pipe(PHOTO, PHOTO, generator=seeded(0), num_inference_steps=2).images
    pipe.enable_attention_slicing()
    sliced = pipe(PHOTO, PHOTO, generator=seeded(0), num_inference_steps=2).images
    pipe.disable_attention_slicing()
    assert torch.allclose(sliced, whole, atol=1e-4)


NAMES = dict(
    MatchingNet="The Matching Net", AppearanceNet="The Appearance Net", ConcatenationNet="The Concatenation Net"
)


@pytest.mark.parametrize("net", ["matching", "appearance"])
def test_no_black_portrait(tmp_path, net):
    "Weights so large that a network overflows: a line that says what to try, and no file."
    from safetensors.torch import load_file, save_file

    folder = tmp_path / net
    shutil.copytree(ROOT / "data" / "adapters" / net, folder)
    says = NAMES[json.loads((folder / "control_config.json").read_text())["kind"]]
    path = folder / "adapter.safetensors"
    save_file({name: weight.float() * 1e30 for name, weight in load_file(path).items()}, path)
    PHOTO.save(tmp_path / "photo.png")
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    done = here("portrait", "--profile", photo, "--light", photo, "--out", out, f"--{net}", folder)
    assert error_line(done).startswith(f"{says} gave values that are not finite: try full precision")
    assert not out.exists()


NETS = {"what ships": True, "an Appearance Net without training": False}


@pytest.fixture(scope="module", params=list(NETS), ids=lambda o: o.replace(" ", "-"))
def figures(request, pipe):
    "Portraits of twenty questions, measured; once by what ships, once by a net that has learned nothing."
    from icportrait import load_profiles
    from icportrait.evaluation.identity import load_identity_encoder
    from icportrait.evaluation.portraits import draw_protocol, evaluate_portraits, portrait_maker
    from icportrait.model.appearance import AppearanceNet
    from icportrait.model.fingerprint import fingerprint
    from icportrait.model.pipeline import ICPortraitPipeline

    trained = NETS[request.param]
    if not trained:
        fresh = AppearanceNet(pipe.unet, base=fingerprint(pipe.base))
        pipe = ICPortraitPipeline.from_base(pipe.base, pipe.matching_net, fresh)
        pipe.set_progress_bar_config(disable=True)
    profiles = load_profiles("mini", "held-out", progress=False)
    make = portrait_maker(pipe, profiles.size, num_inference_steps=None if trained else 2)
    protocol = draw_protocol(profiles, portraits=20)
    return trained, evaluate_portraits(make, profiles, protocol, load_identity_encoder()).figures()


def test_portraits_beat_their_controls(figures):
    "The right person, light and image; and a dead Appearance Net would not pass."
    trained, found = figures
    beaten = [
        found["rank1"] > found["rank1_shuffled_profile"] + 0.3,
        found["rank1"] > found["rank1_lighting_person"] + 0.3,
        found["light_error_deg"] < 0.8 * found["light_error_deg_wrong_light"],
        found["light_error_deg"] < 0.8 * found["light_error_deg_constant_light"],
        found["psnr"] > max(found[f"psnr_{o}"] for o in ("shuffled_profile", "copy_profile", "copy_lighting")) + 2,
    ]
    assert all(beaten) if trained else not any(beaten), found
