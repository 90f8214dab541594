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

from icportrait.dataset import shards as shards_module
from icportrait.dataset.build import build_profiles
from icportrait.dataset.check import check_profiles
from icportrait.dataset.latents import build_latents
from icportrait.dataset.profiles import LightTable, load_profiles
from icportrait.dataset.shards import read_manifest, read_shard, rows_digest, shard_name, write_manifest
from icportrait.dataset.storage import COORDINATE_STEP, HELD_OUT, ProfileError, from_table, toy_views
from icportrait.files import digest, write_json
from icportrait.world.rig import RIG

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
        dict(identities=-3),
        dict(identities=500_000_000),
        dict(identities=[range(10**30)]),
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


def copy_of_head(path):
    shutil.copy(path.parent / shard_name(1), path)


def foreign_parquet(path):
    pq.write_table(pa.table(dict(a=[1, 2])), path)


def foreign_text(path):
    path.write_text("mine")


def folder_with_notes(path):
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def link_to_nowhere(path):
    path.symlink_to("nowhere")


def link_to_itself(path):
    path.symlink_to(path.name)


FOREIGN_NAMES = [
    "head-0000001 (copy).parquet",
    "head-1.parquet",
    "notes.parquet",
    ".head-0000001.parquet",
    "HEAD-0000001.PARQUET",
    "head-0000001.parquet.bak",
    "mannequin (1).parquet",
    ".notes.tmp.txt",
    ".head-0000001-notes.tmp.parquet",
    "line\nbreak.parquet",
    shard_name(7),
]
FOREIGN = [copy_of_head, foreign_parquet, foreign_text, folder_with_notes, link_to_nowhere, link_to_itself]


def everything(folder):
    "Whatever is there, by its path, without following links."
    found = {}
    for p in sorted(folder.rglob("*")):
        if p.name != "build.lock":
            found[str(p.relative_to(folder))] = (
                os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
            )
    return found


@pytest.mark.parametrize("make", FOREIGN, ids=lambda f: f.__name__)
def test_foreign_things(toy, make):
    "Whatever they are and whatever they are called, they are neither read nor deleted, and nothing stops."
    images = load_profiles(toy, "all", cache=toy.parent / "before", progress=False).arrays
    for name in FOREIGN_NAMES:
        make(toy / name)
    before = everything(toy)
    problems = check_profiles(toy)["problems"]
    assert all(shard_name(7) in line and "move it elsewhere" in line for line in problems) and len(problems) <= 1
    found = load_profiles(toy, "all", cache=toy.parent / "after", progress=False).arrays
    assert all(np.array_equal(found[k], images[k]) for k in images)
    build(toy)
    assert everything(toy) == before
    (toy / shard_name(2)).unlink()
    build(toy)
    assert everything(toy) == before


@pytest.mark.parametrize("make", FOREIGN[:4], ids=lambda f: f.__name__)
def test_foreign_in_the_way(toy, make):
    "Where a head is wanted whose name is taken, one line says so; what is there stays."
    make(toy / shard_name(7))
    before = everything(toy)
    with pytest.raises(ProfileError, match=f"{shard_name(7)}.*move it elsewhere") as e:
        build(toy, [7])
    assert len(str(e.value).splitlines()) == 1 and everything(toy) == before


@pytest.mark.parametrize("make", FOREIGN[4:], ids=lambda f: f.__name__)
def test_dead_link_gives_way(toy, make):
    make(toy / shard_name(7))
    build(toy, [7])
    assert check_profiles(toy)["problems"] == [] and not (toy / shard_name(7)).is_symlink()


def test_linked_shards_are_read(whole, toy):
    "As a downloaded set has them."
    for path in toy.glob("*.parquet"):
        path.unlink()
        path.symlink_to(whole / path.name)
    assert check_profiles(toy)["problems"] == []
    before = everything(toy)
    build(toy)
    assert everything(toy) == before


@pytest.mark.parametrize("name", ["manifest.json", "README.md", "build.lock"])
def test_folders_in_the_place_of_files(toy, name):
    (toy / name).unlink(missing_ok=True)
    (toy / name).mkdir()
    with pytest.raises(ProfileError) as e:
        build(toy)
    assert name == "build.lock" or "Is a directory" in str(e.value) or "is a folder" in str(e.value)
    for act in (lambda: load_profiles(toy, cache=toy.parent / "cache", progress=False), lambda: check_profiles(toy)):
        if name == "manifest.json":
            with pytest.raises(ProfileError, match="is a folder: move it elsewhere"):
                act()
        else:
            act()


ODD = [None, [], {}, "7", 7, 1.5, True, [[]], {"a": None}]


def refused(act, what):
    "One line that says what to do, and no traceback."
    with pytest.raises(ProfileError) as e:
        act()
    line = str(e.value)
    assert len(line.splitlines()) == 1 and "build" in line, (what, line)


def damages(body):
    "Pairs of what was done and the body with one key damaged: gone, or of a type that it never has."
    for key, value in body.items():
        yield f"{key} gone", {k: v for k, v in body.items() if k != key}
        for odd in ODD:
            if type(odd) is not type(value):
                yield f"{key}={odd!r}", body | {key: odd}


def damaged_manifests(body):
    "The same for the body of a manifest, its recipe and its first shard."
    yield from damages(body)
    for what, recipe in damages(body["recipe"]):
        yield f"recipe: {what}", body | dict(recipe=recipe)
    for what, entry in damages(body["shards"][0]):
        yield f"entry: {what}", body | dict(shards=[entry, *body["shards"][1:]])


@pytest.mark.parametrize("signed", [False, True])
def test_damaged_manifest(toy, signed):
    "Each key, each odd type, with a digest that no longer fits and with one that does."
    path = toy / "manifest.json"
    body = json.loads(path.read_text())
    said = body.pop("sha256")
    for what, damaged in damaged_manifests(body):
        damaged = damaged | dict(sha256=digest(damaged) if signed else said)
        path.write_text(json.dumps(damaged, indent=1, sort_keys=True) + "\n")
        refused(lambda: load_profiles(toy, cache=toy.parent / "cache", progress=False), what)
        refused(lambda: check_profiles(toy), what)
        refused(lambda: build(toy), what)


@pytest.mark.parametrize(
    "change",
    [
        dict(name="../head-0000000.parquet"),
        dict(name="head-0000001.parquet"),
        dict(identity=1),
        dict(identity=-2),
        dict(rows=0),
        dict(bytes=-1),
    ],
    ids=str,
)
def test_entries_that_cannot_be(toy, change):
    "Of the right type, signed, and still not an entry."
    recipe, entries = read_manifest(toy)
    entries[1] |= change
    write_manifest(toy, recipe, entries)
    refused(lambda: read_manifest(toy), change)


@pytest.mark.parametrize("change", [dict(seed=7), dict(size=10**30), dict(views_per_identity=-1)], ids=str)
def test_recipe_of_another_set(toy, change):
    "A manifest that is whole, over shards that were made otherwise."
    recipe, entries = read_manifest(toy)
    write_manifest(toy, replace(recipe, **change), entries)
    refused(lambda: load_profiles(toy, cache=toy.parent / "cache", progress=False), change)
    with pytest.raises(ProfileError, match="built differently"):
        build(toy)


@pytest.mark.parametrize("text", ["", "[]", "null", "7", '"a"', "{}", "{", "\x00", "[" * 99_999, '{"sha256": null}'])
def test_manifest_that_is_none(toy, text):
    (toy / "manifest.json").write_text(text)
    for act in (lambda: load_profiles(toy, progress=False), lambda: check_profiles(toy), lambda: build(toy)):
        refused(act, text)
    (toy / "manifest.json").write_bytes(b"\xff\xfe{}")
    refused(lambda: check_profiles(toy), "no text")
    assert "build again" in error_line(here("data", "check", toy))


def rewrite_shard(path, change_note=None, change_rows=None):
    "A shard with another note, or other rows under a digest that fits."
    table = pq.ParquetFile(path).read()
    metadata = dict(table.schema.metadata)
    note = json.loads(metadata[b"icportrait"])
    if change_rows:
        schema = table.schema
        rows = table.to_pylist()
        change_rows(rows)
        table = pa.Table.from_pylist(rows, schema=schema)
        note["digest"] = rows_digest(from_table(table))
    note = change_note(note) if change_note else json.dumps(note)
    metadata = {k: v for k, v in metadata.items() if k != b"icportrait"}
    table = table.replace_schema_metadata(metadata | ({b"icportrait": note} if note is not None else {}))
    pq.write_table(table, path)


def shard_is_refused(path, what):
    "Read alone, and in a set that does not list it; building again replaces it, or says what to do."
    folder = path.parent
    with pytest.raises(ProfileError) as e:
        read_shard(path)
    assert len(str(e.value).splitlines()) == 1 and ("build" in str(e.value) or "move" in str(e.value)), what
    assert len(check_profiles(folder)["problems"]) == 1, what


def test_damaged_notes(toy):
    "Each key of a shard's footer, in each odd type."
    path = toy / shard_name(1)
    whole = path.read_bytes()
    note = json.loads(pq.ParquetFile(path).schema_arrow.metadata[b"icportrait"])
    texts = [None, b"", b"null", b"[]", b"7", b"{", b"\xff", b"[" * 99_999]
    for text in texts:
        rewrite_shard(path, lambda _, text=text: text)
        shard_is_refused(path, text)
        path.write_bytes(whole)
    notes = [*damages(note), *((what, note | dict(recipe=recipe)) for what, recipe in damages(note["recipe"]))]
    for what, damaged in notes:
        rewrite_shard(path, lambda _, damaged=damaged: json.dumps(damaged))
        shard_is_refused(path, what)
        path.write_bytes(whole)


def test_damaged_rows(toy):
    "Values that are missing, or cannot be, under a digest that fits; images that are none, under one of the file too."
    path = toy / shard_name(1)
    whole = path.read_bytes()

    def put(column, value):
        return lambda rows: rows[0].update({column: value})

    missing = [put(column, None) for column in read_shard(path)[0][0]]
    wrong = [put("camera", 99), put("size", 16), put("box", [0, 0]), put("box", [0, 0, 99, 99]), put("olat", [])]
    wrong += [put("params", "["), put("expression", "[]"), put("identity", 5), put("scale", -1.0), list.clear]
    for change in missing + wrong:
        rewrite_shard(path, change_rows=change)
        shard_is_refused(path, change)
        path.write_bytes(whole)
    for column in ("point", "albedo", "mask"):
        rewrite_shard(path, change_rows=put(column, dict(bytes=b"no image", path=None)))
        recipe, entries = read_manifest(toy)
        new = shards_module.manifest_entry(path, 1, 2)
        write_manifest(toy, recipe, [new if s["identity"] == 1 else s for s in entries])
        with pytest.raises(ProfileError, match=f"{path.name} is damaged"):
            load_profiles(toy, cache=toy.parent / "cache", progress=False)
        path.write_bytes(whole)


def test_damaged_caches(toy):
    "What is decoded or encoded can be lost in any part: it is made again."
    import torch

    vae = torch.nn.Conv2d(3, 4, 8, 8)
    cache = toy.parent / "cache"

    def encode(vae, images):
        return vae(images)

    def both():
        profiles = load_profiles(toy, "all", cache=cache, progress=False)
        return profiles, build_latents(vae, profiles, encode, lights=LightTable(2), cache=cache, progress=False)

    profiles, latents = both()
    image, z = profiles.images(0, LightTable(2).weights[0], np.zeros((2, 3))), np.array(latents.z)
    for folder in (cache / profiles.key, latents.folder):
        for path in sorted(folder.iterdir()):
            for damage in (lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: p.write_text("[]")):
                damage(path)
                profiles, latents = both()
                assert np.array_equal(profiles.images(0, LightTable(2).weights[0], np.zeros((2, 3))), image), path.name
                assert np.array_equal(latents.z, z), path.name


def test_caches_of_before_are_left_alone(toy):
    "A folder under another key is neither read nor deleted."
    cache = toy.parent / "cache"
    write_json(cache / "latents-0123456789ab" / "done.json", 5)
    load_profiles(toy, cache=cache, progress=False)
    assert (cache / "latents-0123456789ab" / "done.json").read_text() == "5\n"


def test_too_large_to_decode(toy, monkeypatch):
    "Said before a byte is written: a full disk would end the process without a word."
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10, 10, 10))
    with pytest.raises(ProfileError, match="MB needed"):
        load_profiles(toy, cache=toy.parent / "cache", progress=False)


def test_another_version(toy, monkeypatch):
    "Sets of another layout are refused in one line, and left alone."
    before = contents(toy)
    monkeypatch.setattr(shards_module, "FORMAT", 99)
    for act in (lambda: load_profiles(toy, progress=False), lambda: build(toy), lambda: check_profiles(toy)):
        with pytest.raises(ProfileError, match="another version.*build again"):
            act()
    (toy / "manifest.json").unlink()
    with pytest.raises(ProfileError, match="another version.*build again"):
        build(toy)
    assert {k: v for k, v in before.items() if k != "manifest.json"} == contents(toy)


def test_other_heads_are_not_mixed(toy):
    recipe, shards = read_manifest(toy)
    write_manifest(toy, replace(recipe, heads=recipe.heads + 1), shards)
    with pytest.raises(ProfileError, match="built differently .heads"):
        build(toy)


def test_interrupted(tmp_path, whole):
    "Ctrl-C in the middle: the finished shards are whole, and the same call continues."

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
    real = shards_module.atomic_path

    @contextlib.contextmanager
    def full(path):
        if path.name != shard_name(1):
            with real(path) as p:
                yield p
            return
        with real(path) as p:
            p.symlink_to("/dev/full")
            yield p

    monkeypatch.setattr(shards_module, "atomic_path", full)
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
import filelock, torch; torch.set_num_threads(1)
from icportrait.dataset.build import build_profiles
from icportrait.dataset.storage import toy_views as toy
def toy_views(identity, *a, **k): time.sleep(.02); return toy(identity, *a, **k)
for _ in sys.stdin:
    pid = os.fork()
    if not pid:
        how = dict(render=toy_views, with_mannequin=False, progress=False)
        try: build_profiles(sys.argv[1], int(sys.argv[2]), 1, 16, **how)
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
        time.sleep(rng.uniform(0.1, 0.6))
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


def test_images_are_embedded(toy):
    "As structs of bytes and path: Hugging Face `datasets` decodes them, and any reader of images can."
    import io

    from PIL import Image

    table = pq.read_table(toy / shard_name(0))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.schema.names and features["olat"] == dict(
        _type="Sequence", feature=dict(_type="Image")
    )
    row = table.to_pylist()[0]
    images = {k: Image.open(io.BytesIO(row[k]["bytes"])) for k, f in features.items() if f["_type"] == "Image"}
    assert len(images) == 7 and all(o.format == "WEBP" for o in images.values())
    high, low = np.split(np.asarray(images["point"]).astype(int), 2, axis=1)  # as the card says
    top, left, bottom, right = row["box"]
    point, mask = (256 * high + low - 32768) * COORDINATE_STEP, np.asarray(images["mask"])[..., 0] > 0
    view = toy_views(0, [RIG[row["camera"]]], 32)[0]
    assert np.abs(point - view.point[top:bottom, left:right])[mask].max() <= COORDINATE_STEP


def test_hugging_face_reads_it(toy, tmp_path, monkeypatch):
    "By the folder: the card says which files are which split."
    datasets = pytest.importorskip("datasets", reason="not a requirement")
    found = datasets.load_dataset(str(toy), cache_dir=str(tmp_path / "hf"))
    assert {k: sorted(set(v["identity"])) for k, v in found.items()} == dict(train=[0, 1, 2], test=[HELD_OUT])
    row = found["train"][0]
    assert row["olat"][0].size == (32, 32) and row["point"].size[0] == 2 * (row["box"][3] - row["box"][1])
    assert len(datasets.load_dataset(str(toy), "mannequin", cache_dir=str(tmp_path / "hf"))["train"]) == len(RIG)
