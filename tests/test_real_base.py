"A Stable Diffusion 1.5 in small, with random weights, goes through all that the small base goes through."

import contextlib
import json
import math
import os

import pytest
import torch
from conftest import ROOT, error_line, here

from icportrait.bench.experiments import full_parameters, load_experiment
from icportrait.bench.runs import read_metrics

HEADS = (
    0,
    1,
    *range(1000000, 1000004),
)  # of the mini set: few for training, enough held-out identities for the demo's figures
SIZE, LETTERS = 64, "abcdefghijklmnopqrstuvwxyz"


def write_tokenizer(folder):
    "A tokenizer that knows letters only, from files as they come with a checkpoint."
    from transformers import CLIPTokenizer

    folder.mkdir()
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(c + "</w>" for c in LETTERS)]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8, unk_token="<|endoftext|>"
    ), len(words)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A folder with every part of a Stable Diffusion 1.5: four levels, cells of eight pixels, text, epsilon, PNDM."
    from diffusers import AutoencoderKL, PNDMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    from icportrait.model.base import DiffusionModel, save_base
    from icportrait.model.features import tiny_unet

    folder = tmp_path_factory.mktemp("base")
    tokenizer, words = write_tokenizer(folder / "letters")
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        norm_num_groups=2,
        scaling_factor=0.3,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=words,
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    unet = tiny_unet("sd")
    unet.register_to_config(sample_size=SIZE // 8)
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    save_base(DiffusionModel(vae, unet, scheduler, text, tokenizer), folder / "sd", dtype=torch.float32)
    return folder / "sd"


@pytest.fixture(scope="module", autouse=True)
def small_home(tmp_path_factory):
    "The repository with a few heads of its mini set and a cache of its own, so that nothing of this is left behind."
    from icportrait.dataset.shards import read_manifest, write_manifest

    folder = tmp_path_factory.mktemp("home")
    (folder / "data" / "mini").mkdir(parents=True)
    for name in "nbs", "settings.ini", "data/base", "data/adapters", "data/identity":
        (folder / name).symlink_to(ROOT / name)
    recipe, shards = read_manifest(ROOT / "data" / "mini")
    few = [s for s in shards if s["identity"] in (-1, *HEADS)]
    for s in few:
        (folder / "data" / "mini" / s["name"]).symlink_to(ROOT / "data" / "mini" / s["name"])
    write_manifest(folder / "data" / "mini", recipe, few)
    before = os.environ.get("ICPORTRAIT_HOME")
    os.environ["ICPORTRAIT_HOME"] = str(folder)
    yield folder
    os.environ.pop("ICPORTRAIT_HOME")
    if before:
        os.environ["ICPORTRAIT_HOME"] = before


@pytest.fixture(scope="module")
def demo(base, tmp_path_factory):
    "A fast demo on that base, named as a user would in its own folder."
    folder = tmp_path_factory.mktemp("demo")
    with contextlib.chdir(base.parent):
        done = here("demo", "--fast", "--base", base.name, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def nets(demo):
    return ["--matching", demo / "adapters" / "matching", "--appearance", demo / "adapters" / "appearance"]


def test_demo(demo, base):
    metrics = read_metrics(demo)
    assert (metrics["image_size"], metrics["appearance_from_zero"]) == (SIZE, True)
    portrait, relighting = metrics["portrait"], metrics["relighting"]
    figures = (
        metrics["matching"]["trained"]["pck@0.1"],
        portrait["psnr"],
        portrait["light_error_deg"],
        relighting["ssim"],
    )
    assert all(map(math.isfinite, figures))
    assert "starts from zero" in (demo / "report.html").read_text()
    assert json.loads((demo / "adapters" / "appearance" / "card.json").read_text())["from_zero"]


def test_demo_reads_the_text(base, nets, faces):
    "What the demo, the stages and the command line build is one pipeline, with the base's text encoder."
    from icportrait.images import load_image
    from icportrait.model.appearance import AppearanceNet
    from icportrait.model.base import load_base
    from icportrait.model.matching import MatchingNet
    from icportrait.model.pipeline import ICPortraitPipeline, load_pipeline

    model, (_, matching, _, appearance) = load_base(base), nets
    ours = ICPortraitPipeline.from_base(
        model, MatchingNet.from_folder(model, matching), AppearanceNet.from_folder(model, appearance)
    )

    def make(pipe):
        profile, lighting = (load_image(o, None) for o in faces)
        generator = torch.Generator().manual_seed(0)
        return pipe(profile, lighting, num_inference_steps=2, generator=generator, progress=False).images

    images = make(ours)
    assert torch.equal(images, make(load_pipeline(model, matching, appearance)))
    ours.register_modules(text_encoder=None, tokenizer=None)
    assert not torch.equal(images, make(ours)), "the text counts"
    for path in (ROOT / "nbs" / "experiments").glob("*.ipynb"):
        assert "ICPortraitPipeline(" not in path.read_text(), path.name


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "Two images of one size, which is that of no base."
    folder = tmp_path_factory.mktemp("faces")
    from icportrait.images import save_image

    return [
        save_image(torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(i)), folder / f"{i}.png")
        for i in range(2)
    ]


def read_image(path):
    from icportrait.images import load_image

    return load_image(path, None)


def test_portrait(base, nets, faces, tmp_path):
    "Prompt, negative prompt, size and half precision all matter."

    def make(*more):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        done = here(
            "portrait",
            "--profile",
            faces[0],
            "--light",
            faces[1],
            "--out",
            out,
            "--base",
            base,
            "--steps",
            2,
            *nets,
            *more,
        )
        assert done.returncode == 0 and "small base" not in done.stderr, done.stderr
        return read_image(out)

    plain, guided = make(), make("--prompt", "a face", "--guidance", 4)
    assert plain.shape == (3, SIZE, SIZE) and torch.equal(plain, make())
    different = (
        plain,
        make("--prompt", "a face"),
        guided,
        make("--prompt", "a face", "--guidance", 4, "--negative-prompt", "blurred"),
        make("--half"),
    )
    assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])
    assert make("--size", 2 * SIZE).shape == (3, 2 * SIZE, 2 * SIZE)


def test_match_and_relight(base, nets, faces, tmp_path):
    done = here("match", *faces, "--out", tmp_path / "m.png", "--base", base, *nets[:2])
    assert done.returncode == 0 and "mean confidence" in done.stdout, done.stderr
    assert read_image(tmp_path / "m.png").shape[2] > 3 * SIZE
    assert (tmp_path / "m.npz").is_file() and (tmp_path / "m.flo").is_file()
    for name, light in dict(like=("--like", faces[1]), towards=("--towards", "1,.5,.5")).items():
        done = here(
            "relight", faces[0], "--out", tmp_path / f"{name}.png", "--base", base, "--steps", 1, *nets, *light
        )
        assert done.returncode == 0, done.stderr
    assert not torch.equal(read_image(tmp_path / "like.png"), read_image(tmp_path / "towards.png"))


@pytest.mark.parametrize(
    "args,says",
    [
        ([], "icportrait demo --base"),
        (["--matching", "nowhere", "--appearance", "nowhere"], "control_config.json is missing"),
        (["--device", "nonsense"], "no device 'nonsense'"),
        (["--size", SIZE + 8], f"use a multiple of {SIZE}"),
    ],
)
def test_one_line(base, faces, tmp_path, args, says):
    assert says in error_line(
        here(
            "portrait", "--profile", faces[0], "--light", faces[1], "--out", tmp_path / "c.png", "--base", base, *args
        )
    )


@pytest.mark.parametrize("args", [["--prompt", "a pirate"], ["--guidance", 2, "--negative-prompt", "blurred"]])
def test_the_small_base_knows_its_prompts(faces, tmp_path, args):
    "It knows a few attributes, and says which, where it is asked for others."
    said = error_line(here("portrait", "--profile", faces[0], "--light", faces[1], "--out", tmp_path / "c.png", *args))
    assert "means nothing to this base" in said and "It knows skin: light" in said


def test_the_small_base_reads_prompts(faces, tmp_path):
    def make(*more):
        out = tmp_path / f"{len(more)}.png"
        done = here(
            "portrait", "--profile", faces[0], "--light", faces[1], "--out", out, "--steps", 2, "--guidance", 3, *more
        )
        assert done.returncode == 0, done.stderr
        return read_image(out)

    assert not torch.equal(make(), make("--prompt", "dark skin, glasses"))


def play(name, out, **params):
    "The figures of an experiment whose cells run in this process, which saves loading the libraries again."
    import matplotlib

    matplotlib.use("Agg")
    experiment = load_experiment(name)
    given = full_parameters(experiment, dict(precision="no") | params) | dict(out=str(out))
    names = {}
    for cell in json.loads(experiment.text)["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name} {cell['id']}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= given
    return read_metrics(out)


def test_stages(base, tmp_path):
    "Matching, stitching and coupling with that matching, a step or two each; the base evaluated; a fast learner."

    def run(name, **params):
        return play(name, tmp_path / name, base=str(base), **params)

    matching = run("train_matching", steps=2, batch=2, pairs=4, validate_every=2)
    assert (matching["weights"], matching["checkpointing"], matching["precision"]) == ("float32", False, "no")
    assert matching["steps"] == 2 and 0 <= matching["trained"]["pck@0.1"] <= 1
    appearance = run(
        "train_appearance",
        matching=str(tmp_path / "train_matching" / "adapter"),
        stitching_steps=1,
        coupling_steps=2,
        batch=2,
        pairs=2,
        sampling_steps=1,
        validate_every=3,
    )
    assert appearance["steps"] == 3 and math.isfinite(appearance["psnr_other"])
    from icportrait.model.pipeline import load_pipeline

    pipe = load_pipeline(base, tmp_path / "train_matching" / "adapter", tmp_path / "train_appearance" / "adapter")
    assert pipe.tokenizer is not None and any(
        bool(p.abs().max() > 0) for n, p in pipe.appearance.named_trainable().items() if ".lora_B" in n
    )
    portraits = run(
        "train_portraits",
        matching=str(tmp_path / "train_matching" / "adapter"),
        steps=2,
        batch=2,
        width=16,
        blocks=2,
        rank=2,
        people=2,
        per_pair=1,
        cases=2,
        refiner_steps=2,
        adversarial_steps=1,
        sampling_steps=2,
        validate_every=2,
    )
    assert portraits["steps"] == 2 and math.isfinite(portraits["portrait"]["light_error_deg"])
    pipe = load_pipeline(base, tmp_path / "train_matching" / "adapter", tmp_path / "train_portraits" / "adapter")
    learned = [pipe.appearance.refiner.conv_out, pipe.appearance.x0_residual]
    assert all(layer.weight.abs().max() > 0 for layer in learned), "both trainings left something"
    logged = (tmp_path / "train_portraits" / "adversarial" / "metrics.jsonl").read_text()
    assert "loss_discriminators" in logged
    judged = run(
        "evaluate_base",
        samples=16,
        sampling_steps=1,
        compare="DDIM",
        compare_steps=[1],
        compared=4,
        classifier_steps=10,
        classifier_images=32,
        train_images=16,
        full_size_steps=-1,
    )
    assert math.isfinite(judged["autoencoder"]["psnr"]) and judged["unet"]["fid_ratio_held_out"] > 1.5, (
        "noise is no face"
    )
    learner = run("fast_learner", at="[0,1]", batch=2, pairs=2)
    assert set(learner["pck@0.05"]) == {"0", "1"}
    tried = dict(budget=2, samples=8, sampling_steps=1, batch=2, widths=[32, 64])
    two, noise = (
        play("architecture", tmp_path / f"architecture-{k}", base=str(base), **tried, **more)
        for k, more in enumerate([dict(attention=1), dict(prediction="epsilon", zero_snr=False)])
    )
    assert two["mmac"] < noise["mmac"] and two["steps"] > noise["steps"] > 2, (
        "the cheaper takes more steps for the same cost"
    )
    assert noise["error_noisy"] > two["error_noisy"] and all(
        math.isfinite(o[k]) for o in (two, noise) for k in ("error_clean", "kid", "brightness_std_ratio")
    )


def test_with_little_memory(base, tmp_path):
    "Weights in bf16 and activations that are computed once more: both stages train, to finite figures."
    little = dict(base=str(base), half=True, checkpointing=True, precision="bf16", batch=1, pairs=2)

    def run(name, **params):
        return play(name, tmp_path / name, **little, **params)

    def memory(figures):
        return [figures[k] for k in ("weights", "checkpointing", "precision")]

    figures = run("train_matching", steps=1)
    assert figures["trained"]["epe_px"] >= 0 and memory(figures) == ["bfloat16", True, "bf16"]
    figures = run(
        "train_appearance",
        matching=str(tmp_path / "train_matching" / "adapter"),
        stitching_steps=0,
        coupling_steps=1,
        sampling_steps=1,
    )
    assert math.isfinite(figures["psnr_other"]) and memory(figures) == ["bfloat16", True, "bf16"]
    from icportrait.model.pipeline import load_pipeline

    load_pipeline(
        base, tmp_path / "train_matching" / "adapter", tmp_path / "train_appearance" / "adapter"
    )  # that base in fp32 takes them, too


@pytest.mark.parametrize("name", ["train_matching", "train_appearance", "demo"])
def test_half_needs_bf16(base, tmp_path, name):
    with pytest.raises(ValueError, match="half=True .* needs precision='bf16'"):
        play(name, tmp_path / name, base=str(base), half=True)


def test_goes_on_learning(base, tmp_path):
    "The base's own UNet learns further, and what is written is the same kind of base."
    from icportrait.model.base import load_base

    params = dict(
        base=str(tmp_path / "tuned"),
        start=str(base),
        autoencoder_steps=0,
        unet_steps=1,
        unet_batch=2,
        lights_per_view=1,
    )
    assert math.isfinite(play("pretrain_base", tmp_path / "run", **params)["unet"]["loss"])
    before, after = load_base(base), load_base(tmp_path / "tuned")
    assert (type(after.scheduler), after.scheduler.config.prediction_type, after.image_size) == (
        type(before.scheduler),
        "epsilon",
        SIZE,
    )

    def said(folder):
        card = json.loads((folder / "card.json").read_text())
        return [card[k] for k in ("title", "licence", "limits")]

    assert said(tmp_path / "tuned")[:2] == [
        "sd, trained further on the light stage",
        "that of the base that was trained further",
    ]
    play(
        "pretrain_base",
        tmp_path / "run2",
        **params | dict(base=str(tmp_path / "twice"), start=str(tmp_path / "tuned")),
    )
    assert said(tmp_path / "twice") == said(tmp_path / "tuned"), "name and licence stay"
    with pytest.raises(ValueError, match="set autoencoder_steps=0"):
        play("pretrain_base", tmp_path / "run3", **params | dict(autoencoder_steps=1))
    assert torch.allclose(after.encode_prompt(1, "a face"), before.encode_prompt(1, "a face"), atol=1e-2)
    assert not torch.equal(after.unet.conv_in.weight, before.unet.conv_in.weight.half().float())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 99 bytes"),
    ],
)
def test_out_of_memory(faces, tmp_path, monkeypatch, error):
    import icportrait.model.pipeline

    def full(*_):
        raise error

    monkeypatch.setattr(icportrait.model.pipeline, "load_pipeline", full)
    assert "try --half" in error_line(
        here("portrait", "--profile", faces[0], "--light", faces[1], "--out", tmp_path / "c.png")
    )


@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_decoder_alone(adversarial, tmp_path):
    "`encoder_learns=False` leaves the latents what they were, and the images not."
    from icportrait.model.base import load_base

    play(
        "pretrain_base",
        tmp_path / "run",
        start="small",
        base=str(tmp_path / "base"),
        autoencoder_steps=2,
        autoencoder_batch=4,
        encoder_learns=False,
        adversarial=adversarial,
        unet_steps=0,
        lights_per_view=1,
    )
    before, after = load_base("small"), load_base(tmp_path / "base")

    def equal(part):
        old, new = (getattr(o.vae, part).state_dict().values() for o in (before, after))
        return all(torch.equal(a, b) for a, b in zip(old, new, strict=True))

    assert (
        equal("encoder")
        and not equal("decoder")
        and before.vae.config.scaling_factor == after.vae.config.scaling_factor
    )
    logged = (tmp_path / "run" / "autoencoder" / "metrics.jsonl").read_text()
    assert ("loss_discriminators" in logged) == (adversarial > 0)


@pytest.mark.parametrize(
    "given,says",
    [
        (dict(start="", encoder_learns=False), "no encoder yet"),
        (dict(start="small", adversarial=0.5), "set encoder_learns=False"),
    ],
)
def test_decoder_that_cannot_learn_alone(given, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        play(
            "pretrain_base", tmp_path / "run", base=str(tmp_path / "base"), autoencoder_steps=1, unet_steps=0, **given
        )
