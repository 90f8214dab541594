"Pictures as users have them, through the functions that every command uses."

import numpy as np
import pytest
import torch
from PIL import Image

from icportrait.images import ImageError, load_image, save_image


@pytest.fixture
def picture():
    "A 90x60 picture with a red left half and a blue right half."
    x = np.zeros((60, 90, 3), np.uint8)
    x[:, :45, 0] = x[:, 45:, 2] = 255
    return Image.fromarray(x)


def sides(image):
    "Mean colour of the left and of the right third."
    w = image.shape[2] // 3
    return image[:, :, :w].mean((1, 2)).round(decimals=1).tolist(), image[:, :, -w:].mean((1, 2)).round(
        decimals=1
    ).tolist()


@pytest.mark.parametrize(
    "mode,suffix", [("RGB", "png"), ("RGB", "webp"), ("RGBA", "png"), ("P", "png"), ("CMYK", "tiff"), ("RGB", "bmp")]
)
def test_every_mode_has_the_same_colours(picture, tmp_path, mode, suffix):
    picture.convert(mode).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    image = load_image(tmp_path / f"a.{suffix}", 60)
    assert image.shape == (3, 60, 60) and image.dtype == torch.float32
    assert sides(image) == ([1, 0, 0], [0, 0, 1])


def test_grey_and_16_bit(tmp_path):
    ramp = (np.linspace(0, 1, 64)[None].repeat(64, 0) * 65535).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.fromarray((ramp >> 8).astype(np.uint8)).save(tmp_path / "grey.png")
    deep, grey = load_image(tmp_path / "deep.png", None), load_image(tmp_path / "grey.png", None)
    assert (deep - grey).abs().max() < 2 / 255 and torch.equal(deep[0], deep[2]) and deep.max() == 1


def test_transparency_is_grey(picture, tmp_path):
    picture.putalpha(0)
    picture.save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png") - 128 / 255).abs().max() < 1e-6


@pytest.mark.parametrize("tag", range(1, 9))
def test_every_rotation_tag(picture, tmp_path, tag):
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that a camera would have applied
    stored = picture.transpose(Image.Transpose(back[tag])) if tag > 1 else picture
    exif = Image.Exif()
    exif[0x0112] = tag
    stored.save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png", None)
    assert image.shape == (3, 60, 90) and sides(image) == ([1, 0, 0], [0, 0, 1])


@pytest.mark.parametrize("size", [(8, 8), (8, 4000), (4000, 9)])
def test_odd_shapes_are_cropped(tmp_path, size):
    Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png", 32)
    assert image.shape == (3, 32, 32) and (image.mean((1, 2)) - torch.tensor([1.0, 0, 0])).abs().max() < 1e-6


@pytest.mark.parametrize(
    "make,says",
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "folder"),
        (lambda p: p.write_bytes(b""), "not an image"),
        (lambda p: p.write_text("<svg/>"), "not an image"),
        (lambda p: Image.new("RGB", (1, 1)).save(p), "too small"),
        (lambda p: Image.new("1", (20000, 20000)).save(p), "too large"),
        (lambda p: Image.new("1", (20000, 10)).save(p), "too large"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "not an image"),
    ],
)
def test_bad_files(tmp_path, make, says):
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(ImageError, match=says) as e:
        load_image(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_cut_short(picture, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    for share in 0.2, 0.5, 0.9:
        (tmp_path / "b.jpg").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ImageError, match="damaged|not an image"):
            load_image(tmp_path / "b.jpg")
    assert load_image(tmp_path / "a.jpg").shape == (3, 128, 128)


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = save_image(torch.ones(3, 8, 8), tmp_path / "a.png")
    before = path.read_bytes()

    def full(self, p, *a, **k):
        p.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(p))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError):
        save_image(torch.zeros(3, 8, 8), path)
    assert path.read_bytes() == before and [o.name for o in tmp_path.iterdir()] == ["a.png"]
