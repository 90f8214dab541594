"Adapters and bases that do not go together, and files that are not what they should be: one line each, and no output."

import json
import shutil

import pytest
import torch
from conftest import ROOT, error_line, here
from safetensors.torch import load_file, save_file

from icportrait.files import write_json
from icportrait.model.adapters import AdapterError, setting_types
from icportrait.model.base import load_base
from icportrait.model.concatenation import ConcatenationNet
from icportrait.model.matching import MatchingNet

WEIGHTS = "diffusion_pytorch_model.safetensors"
KINDS = dict(matching=MatchingNet, appearance=ConcatenationNet)


@pytest.fixture(scope="module")
def small():
    return load_base("small")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "Two images of noise."
    from icportrait.images import save_image

    folder = tmp_path_factory.mktemp("faces")
    generator = torch.Generator().manual_seed(0)
    return [save_image(torch.rand(3, 96, 96, generator=generator), folder / f"{i}.png") for i in range(2)]


def edit(path, **changes):
    "Other values in a JSON file; ... leaves a key out."
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def edit_weights(path, change):
    "Other values in a file of weights."
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def noise(weights):
    "Transformers of noise, where every other tensor stays."
    generator = torch.Generator().manual_seed(0)
    for name, w in weights.items():
        if "transformer_blocks" in name and w.ndim > 1:
            values = torch.randn(w.shape, generator=generator) * w.float().std()
            weights[name] = values.to(w.dtype)


def nan(weights):
    weights["conv_out.weight"][:] = torch.nan


BASES = {  # name: (file, change, what is said)
    "noise": (f"unet/{WEIGHTS}", noise, "belongs to another base (its UNet has other weights)"),
    "epsilon": ("scheduler/scheduler_config.json", dict(prediction_type="epsilon"), "belongs to another base"),
    "schedule": ("scheduler/scheduler_config.json", dict(beta_end=0.02), "belongs to another base"),
    "scaled": ("vae/config.json", dict(scaling_factor=0.5), "belongs to another base"),
    "heads": ("unet/config.json", dict(attention_head_dim=4), "belongs to another base"),
    "flow": ("scheduler/scheduler_config.json", dict(prediction_type="flow_prediction"), "'flow_prediction'"),
    "nan": (f"unet/{WEIGHTS}", nan, "not finite"),
}


@pytest.mark.parametrize("name", BASES)
def test_another_base(name, faces, tmp_path):
    "`match` and `portrait` refuse the adapters that ship, or the base itself."
    file, change, said = BASES[name]
    base = tmp_path / name
    shutil.copytree(ROOT / "data" / "base", base)
    if callable(change):
        edit_weights(base / file, change)
    else:
        edit(base / file, **change)
    out = tmp_path / "x.png"
    match = here("match", *faces, "--out", out, "--base", base)
    portrait = here("portrait", "--profile", faces[0], "--light", faces[1], "--out", out, "--base", base)
    for done in (match, portrait):
        assert said in error_line(done)
    assert not out.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_base_in_half_precision(dtype):
    base = load_base("small", dtype)
    for name, kind in KINDS.items():
        kind.from_folder(base, ROOT / "data" / "adapters" / name)


def copied(name, folder):
    "An adapter that ships, to be changed."
    shutil.copytree(ROOT / "data" / "adapters" / name, folder)
    return folder


def fits(kind, key, value):
    "Whether a value is of the right type."
    types = setting_types(kind)
    if key in ("kind", "base"):
        return False
    if isinstance(value, str):
        return types[key] in (str, str | None)
    return isinstance(value, list) and types[key] not in (str, int, float, bool, str | None)


@pytest.mark.parametrize("name", KINDS)
def test_every_key_of_a_configuration(name, small, tmp_path):
    "Null, text, a list or nothing at all under each key is one line that names it."
    folder = copied(name, tmp_path / name)
    path = folder / "control_config.json"
    right = json.loads(path.read_text())
    for key in right:
        for value in (None, "x", ["x"], ...):
            if fits(KINDS[name], key, value):
                continue
            write_json(path, right)
            edit(path, **{key: value})
            with pytest.raises(AdapterError) as e:
                KINDS[name].from_folder(small, folder)
            said = str(e.value)
            assert len(said.splitlines()) == 1 and (key in said or (key, value) == ("kind", "x")), (key, value, said)


@pytest.mark.parametrize("changes", [dict(upto="x"), dict(targets=["x"]), dict(targets=[]), dict(timestep=1000)])
def test_settings_that_no_net_has(changes, small, tmp_path):
    folder = copied("matching", tmp_path / "a")
    edit(folder / "control_config.json", **changes)
    with pytest.raises(AdapterError) as e:
        MatchingNet.from_folder(small, folder)
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
    "changes,said",
    [
        (dict(base=None), "base is null"),
        (dict(timestep="x"), "timestep is 'x'"),
        (dict(timestep=...), "lacks timestep"),
    ],
)
def test_a_broken_adapter_on_the_command_line(changes, said, faces, tmp_path):
    folder = copied("matching", tmp_path / "a")
    edit(folder / "control_config.json", **changes)
    out = tmp_path / "x.png"
    assert said in error_line(here("match", *faces, "--out", out, "--matching", folder))
    assert not out.exists()


def test_integer_weights(faces, tmp_path):
    folder = copied("matching", tmp_path / "a")

    def to_integers(weights):
        for name, w in weights.items():
            weights[name] = w.mul(100).to(torch.int8)

    edit_weights(folder / "adapter.safetensors", to_integers)
    out = tmp_path / "x.png"
    assert "as int8, not as floating-point" in error_line(here("match", *faces, "--out", out, "--matching", folder))
    assert not out.exists()


def test_loading_changes_nothing(small):
    "The base that is loaded computes what diffusers' own loading computes, to the bit."
    from diffusers import AutoencoderDC, UNet2DConditionModel

    from icportrait.model.diffusion import decode, encode

    folder = ROOT / "data" / "base"
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32).eval()
    vae = AutoencoderDC.from_pretrained(folder / "vae", dtype=torch.float32).eval()
    for model in (unet, vae):
        model.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    z, image = torch.randn(1, 16, 16, 16, generator=generator), torch.rand(1, 3, 128, 128, generator=generator)
    with torch.no_grad():
        states = small.encode_prompt(1, "dark skin, glasses")
        assert torch.equal(small.unet(z, 300, states).sample, unet(z, 300, states).sample)
        assert torch.equal(encode(small.vae, image), vae.encode(image * 2 - 1).latent * vae.config.scaling_factor)
        decoded = vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5
        assert torch.equal(decode(small.vae, z), decoded.clamp(0, 1))
    assert states.shape == (1, 9, 64) and not torch.equal(states, small.encode_prompt(1))
