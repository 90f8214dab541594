"Data sets on disk: what goes wrong is found, and what was finished stays."

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, error_line, here

from icportrait import profiles
from icportrait.dataset.build import build_profiles, check_profiles
from icportrait.dataset.profiles import load_profiles
from icportrait.dataset.shards import read_manifest, shard_name
from icportrait.dataset.storage import HELD_OUT, ProfileError, toy_views

WHO = [0, 1, 2, HELD_OUT]


def build(folder, identities=WHO, render=toy_views, **how):
    return build_profiles(
        folder, identities, **dict(views_per_identity=2, size=32, progress=False, render=render) | how
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return build(tmp_path_factory.mktemp("whole") / "toy")


@pytest.fixture
def toy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "toy")


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "build.lock"}


@pytest.mark.parametrize(
    "how",
    [
        dict(views_per_identity=0),
        dict(views_per_identity=40),
        dict(size=4),
        dict(spp=0),
        dict(quality=101),
        dict(seed=-1),
        dict(workers=-1),
        dict(identities=[-5]),
        dict(identities=[3, 3]),
        dict(identities=[10 * HELD_OUT]),
    ],
    ids=str,
)
def test_out_of_range(tmp_path, how):
    "One line, before anything is written."
    with pytest.raises(ProfileError) as e:
        build(tmp_path / "x", **how)
    assert len(str(e.value).splitlines()) == 1 and not (tmp_path / "x").exists()


def test_a_number_is_the_first_seeds(tmp_path):
    assert [s["identity"] for s in read_manifest(build(tmp_path / "x", 3))[1]] == [-1, 0, 1, 2]


def flip(data, at, bit):
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_flipped_bytes(toy):
    "Anywhere: in a shard, in the manifest, in the card."
    rng, files = np.random.default_rng(0), sorted(contents(toy))
    assert check_profiles(toy)["problems"] == [] and {"README.md", "manifest.json"} < set(files)
    for k in range(60):
        path = toy / (["README.md", "manifest.json", *files])[k % (2 + len(files))]
        data = path.read_bytes()
        path.write_bytes(flip(data, int(rng.integers(len(data))), int(rng.integers(8))))
        try:
            found = check_profiles(toy)["problems"]
        except ProfileError as e:
            found = [str(e)]
        assert len(found) == 1 and path.name in found[0], path.name
        path.write_bytes(data)
    assert check_profiles(toy)["problems"] == []


def test_corrupt_shard_is_built_again(toy):
    before = contents(toy)
    (toy / shard_name(1)).write_bytes(before[shard_name(1)][:-50])
    assert shard_name(1) in error_line(here("data", "check", toy))
    with pytest.raises(ProfileError, match="damaged"):
        load_profiles(toy, cache=toy.parent / "cache", progress=False)
    build(toy)
    assert contents(toy) == before


def test_foreign_parquet(toy):
    "It is neither read nor deleted."
    path = toy / shard_name(7)
    pq.write_table(pa.table(dict(a=[1, 2])), path)
    assert path.name in check_profiles(toy)["problems"][0]
    with pytest.raises(ProfileError, match="not a profile shard"):
        build(toy)
    assert pq.read_table(path).to_pydict() == dict(a=[1, 2])


def test_another_version(toy, monkeypatch):
    "Sets of another layout are refused in one line, and left alone."
    before = contents(toy)
    monkeypatch.setattr(profiles, "FORMAT", 99)
    for act in (lambda: load_profiles(toy, progress=False), lambda: build(toy), lambda: check_profiles(toy)):
        with pytest.raises(ProfileError, match="another version.*build again"):
            act()
    (toy / "manifest.json").unlink()
    with pytest.raises(ProfileError, match="another version.*build again"):
        build(toy)
    assert {k: v for k, v in before.items() if k != "manifest.json"} == contents(toy)


def test_other_heads_are_not_mixed(toy):
    recipe, shards = read_manifest(toy)
    profiles.write_manifest(toy, replace(recipe, heads=recipe.heads + 1), shards)
    with pytest.raises(ProfileError, match="built differently .heads"):
        build(toy)


def test_interrupted(tmp_path, whole):
    "Ctrl-C in the middle: the finished shards are whole, and the same call goes on."

    def stop(identity, *a, **k):
        if identity == 1:
            raise KeyboardInterrupt
        return toy_views(identity, *a, **k)

    stop.__name__ = "toy_views"
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "x", render=stop)
    found = check_profiles(tmp_path / "x")
    assert found["identities"] == 1 and found["problems"] == []
    assert contents(build(tmp_path / "x")) == contents(whole)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_disk_full(tmp_path, whole, monkeypatch):
    "The disk refuses the bytes of the third shard."
    real = profiles.atomic_path

    @contextlib.contextmanager
    def full(path):
        if path.name != shard_name(1):
            with real(path) as p:
                yield p
            return
        with real(path) as p:
            p.symlink_to("/dev/full")
            yield p

    monkeypatch.setattr(profiles, "atomic_path", full)
    with pytest.raises(ProfileError, match="no space left.*build again"):
        build(tmp_path / "x")
    monkeypatch.undo()
    found = check_profiles(tmp_path / "x")
    assert (
        found["identities"] == 1
        and found["problems"] == []
        and not [p for p in (tmp_path / "x").iterdir() if ".tmp" in p.name]
    )
    assert contents(build(tmp_path / "x")) == contents(whole)


def test_too_little_disk_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10, 10, 10))
    with pytest.raises(ProfileError, match="MB needed"):
        build(tmp_path / "x")
    assert not list((tmp_path / "x").glob("*.parquet"))


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ProfileError, match="cannot write"):
        build(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_one_worker_or_two(tmp_path, whole):
    for workers in 1, 2:
        assert contents(build(tmp_path / str(workers), workers=workers)) == contents(whole)


SCRIPT = """
import os, sys, time
import torch; torch.set_num_threads(1)
from icportrait.dataset.build import build_profiles
from icportrait.dataset.storage import toy_views as toy
def toy_views(identity, *a, **k): time.sleep(.02); return toy(identity, *a, **k)
for _ in sys.stdin:
    pid = os.fork()
    if not pid:
        try: build_profiles(sys.argv[1], int(sys.argv[2]), 1, 16, render=toy_views, with_mannequin=False, progress=False)
        except BaseException as e: print(e, file=sys.stderr); os._exit(1)
        os._exit(0)
    print(pid, flush=True)
    print('end', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX processes")
def test_killed_twenty_times(tmp_path):
    "At random moments; no finished shard is lost or changed, and the set ends up as if nothing had happened."
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    p = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "x"), "200"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )

    def start():
        p.stdin.write("go\n")
        p.stdin.flush()
        return int(p.stdout.readline())

    def shards():
        return {o.name: o.read_bytes() for o in (tmp_path / "x").glob("head-*.parquet")}

    rng, before, kills = np.random.default_rng(0), {}, 0
    for _ in range(20):
        pid = start()
        time.sleep(rng.uniform(0.05, 0.3))
        os.kill(pid, signal.SIGKILL)
        kills += p.stdout.readline() == f"end {-signal.SIGKILL}\n"
        now = shards()
        assert before.items() <= now.items()
        before = now
    assert kills == 20 and 0 < len(before) < 200
    start()
    assert p.stdout.readline() == "end 0\n"
    p.stdin.close()
    p.wait()
    assert before.items() <= shards().items() and check_profiles(tmp_path / "x")["problems"] == []
    assert contents(tmp_path / "x") == contents(
        build(tmp_path / "y", 200, views_per_identity=1, size=16, with_mannequin=False)
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX processes")
def test_two_builds_at_once(tmp_path):
    "The second is refused in one line; the first is not disturbed."
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    p = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "x"), "40"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    p.stdin.write("go\n")
    p.stdin.flush()
    p.stdout.readline()
    deadline = time.time() + 60
    while not list((tmp_path / "x").glob("head-*.parquet")):
        assert time.time() < deadline
        time.sleep(0.01)
    with pytest.raises(ProfileError, match="another build"):
        build(tmp_path / "x", 40, views_per_identity=1, size=16, with_mannequin=False)
    assert p.stdout.readline() == "end 0\n"
    p.stdin.close()
    p.wait()
    assert check_profiles(tmp_path / "x")["problems"] == [] and check_profiles(tmp_path / "x")["identities"] == 40


def test_card(toy):
    "It counts what is there, names the command that makes it, and its header is YAML whose patterns find the files."
    import yaml

    card = (toy / "README.md").read_text()
    assert "4: 3 for training, 1 held out" in card and "--identities 3,1000000-1000001 --views 2 --size 32" in card
    header = yaml.safe_load(card.split("---\n")[1])
    found = {
        (c["config_name"], f["split"]): sorted(p.name for p in toy.glob(f["path"]))
        for c in header["configs"]
        for f in c["data_files"]
    }
    assert found == {
        ("heads", "train"): [shard_name(i) for i in range(3)],
        ("heads", "test"): [shard_name(HELD_OUT)],
        ("mannequin", "train"): ["mannequin.parquet"],
    }
    (toy / "README.md").unlink()
    assert "README.md is missing" in check_profiles(toy)["problems"][0]
    build(toy)
    assert (toy / "README.md").read_text() == card


def test_pictures_are_embedded(toy):
    "As structs of bytes and path, described so that Hugging Face `datasets` decodes them; any reader of images can read them."
    import io

    from PIL import Image

    table = pq.read_table(toy / shard_name(0))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.schema.names and features["olat"] == dict(
        _type="Sequence", feature=dict(_type="Image")
    )
    row = table.to_pylist()[0]
    pictures = {k: Image.open(io.BytesIO(row[k]["bytes"])) for k, f in features.items() if f["_type"] == "Image"}
    assert len(pictures) == 7 and all(o.format == "WEBP" for o in pictures.values())
    high, low = np.split(np.asarray(pictures["point"]).astype(int), 2, axis=1)  # as the card says
    t, l, b, r = row["box"]
    point, mask = (256 * high + low - 32768) * profiles.POINT_STEP, np.asarray(pictures["mask"])[..., 0] > 0
    view = toy_views(0, [profiles.RIG[row["camera"]]], 32)[0]
    assert np.abs(point - view.point[t:b, l:r])[mask].max() <= profiles.POINT_STEP


def test_hugging_face_reads_it(toy, tmp_path, monkeypatch):
    "By the folder: the card says which files are which split."
    datasets = pytest.importorskip("datasets", reason="not a requirement")
    found = datasets.load_dataset(str(toy), cache_dir=str(tmp_path / "hf"))
    assert {k: sorted(set(v["identity"])) for k, v in found.items()} == dict(train=[0, 1, 2], test=[HELD_OUT])
    row = found["train"][0]
    assert row["olat"][0].size == (32, 32) and row["point"].size[0] == 2 * (row["box"][3] - row["box"][1])
    assert len(datasets.load_dataset(str(toy), "mannequin", cache_dir=str(tmp_path / "hf"))["train"]) == len(
        profiles.RIG
    )
