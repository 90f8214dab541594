"Another base: a Stable Diffusion 1.5 in small, with random weights, goes through all that the small base goes through."
import contextlib
import json
import math
import os

import pytest
import torch
from conftest import ROOT, error_line, here

from icportrait.bench import read_metrics, run_notebook

HEADS = (0, 1, *range(1000000, 1000004))   # of the mini set: few for training, enough held-out people for the demo's figures
SIZE, LETTERS = 64, 'abcdefghijklmnopqrstuvwxyz'


def write_tokenizer(folder):
    "A tokenizer that knows letters only, from files as they come with a checkpoint."
    from transformers import CLIPTokenizer
    folder.mkdir()
    words = ['<|startoftext|>', '<|endoftext|>', *LETTERS, *(c+'</w>' for c in LETTERS)]
    (folder/'vocab.json').write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder/'merges.txt').write_text('#version: 0.2\n')
    return CLIPTokenizer(str(folder/'vocab.json'), str(folder/'merges.txt'), model_max_length=8, unk_token='<|endoftext|>'), len(words)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    "A folder with every part of a Stable Diffusion 1.5: four levels, eight pixels a cell, text, noise prediction, PNDM."
    from diffusers import AutoencoderKL, PNDMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    from icportrait.base import Base, save_base
    from icportrait.control import tiny_unet
    folder = tmp_path_factory.mktemp('base')
    tokenizer, words = write_tokenizer(folder/'letters')
    torch.manual_seed(0)
    vae = AutoencoderKL(down_block_types=('DownEncoderBlock2D',)*4, up_block_types=('UpDecoderBlock2D',)*4, block_out_channels=(4, 4, 8, 8), norm_num_groups=2, scaling_factor=.3)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=words, hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=8, bos_token_id=0, eos_token_id=1))
    unet = tiny_unet('sd')
    unet.register_to_config(sample_size=SIZE//8)
    scheduler = PNDMScheduler(beta_schedule='scaled_linear', beta_start=.00085, beta_end=.012, skip_prk_steps=True, steps_offset=1)
    save_base(Base(vae, unet, scheduler, text, tokenizer), folder/'sd', dtype=torch.float32)
    return folder/'sd'


@pytest.fixture(scope='module', autouse=True)
def small_home(tmp_path_factory):
    "The repository with a few heads of its mini set and a cache of its own, so that nothing of this is left behind."
    from icportrait.profiles import read_manifest, write_manifest
    folder = tmp_path_factory.mktemp('home')
    (folder/'data'/'mini').mkdir(parents=True)
    for name in 'nbs', 'settings.ini', 'data/base', 'data/adapters', 'data/identity': (folder/name).symlink_to(ROOT/name)
    recipe, shards = read_manifest(ROOT/'data'/'mini')
    few = [s for s in shards if s['identity'] in (-1, *HEADS)]
    for s in few: (folder/'data'/'mini'/s['name']).symlink_to(ROOT/'data'/'mini'/s['name'])
    write_manifest(folder/'data'/'mini', recipe, few)
    before = os.environ.get('ICPORTRAIT_HOME')
    os.environ['ICPORTRAIT_HOME'] = str(folder)
    yield folder
    os.environ.pop('ICPORTRAIT_HOME')
    if before: os.environ['ICPORTRAIT_HOME'] = before


@pytest.fixture(scope='module')
def demo(base, tmp_path_factory):
    "A fast demo on that base, named as a user would in its own folder."
    folder = tmp_path_factory.mktemp('demo')
    with contextlib.chdir(base.parent): done = here('demo', '--fast', '--base', base.name, '--out', folder/'run')
    assert done.returncode == 0, done.stderr
    return folder/'run'


@pytest.fixture(scope='module')
def nets(demo): return ['--matching', demo/'adapters'/'matching', '--appearance', demo/'adapters'/'appearance']


def test_demo(demo, base):
    metrics = read_metrics(demo)
    assert (metrics['image_size'], metrics['appearance_from_zero']) == (SIZE, True)
    assert all(math.isfinite(metrics[part][name]) for part, name in (('matching', 'pck10_after'), ('portrait', 'psnr'), ('portrait', 'light_error_deg'), ('relighting', 'ssim')))
    assert 'starts from zero' in (demo/'report.html').read_text()
    assert json.loads((demo/'adapters'/'appearance'/'card.json').read_text())['from_zero']
