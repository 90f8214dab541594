"Images as users have them, through the functions that every command uses."

import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from icportrait.images import ImageError, check_output_path, load_image, save_image

ENDLESS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{ } loop\n%%EOF\n"
RED_AND_BLUE = ([1, 0, 0], [0, 0, 1])


@pytest.fixture
def image():
    "90x60 pixels with a red left half and a blue right half."
    x = np.zeros((60, 90, 3), np.uint8)
    x[:, :45, 0] = 255
    x[:, 45:, 2] = 255
    return Image.fromarray(x)


@pytest.fixture
def ramp():
    "[64,64] from 0 at the left to 1 at the right."
    return np.linspace(0, 1, 64)[None].repeat(64, 0)


def mean_colour(x):
    return x.mean((1, 2)).round(decimals=1).tolist()


def sides(x):
    "Mean colour of the left and of the right third."
    third = x.shape[2] // 3
    return mean_colour(x[:, :, :third]), mean_colour(x[:, :, -third:])


def both_ways(path, size=None):
    "The image by its path; as a Pillow image it must be the same."
    by_path = load_image(path, size)
    assert torch.equal(load_image(Image.open(path), size), by_path)
    return by_path


@pytest.mark.parametrize(
    "mode,suffix", [("RGB", "png"), ("RGB", "webp"), ("RGBA", "png"), ("P", "png"), ("CMYK", "tiff"), ("RGB", "bmp")]
)
def test_every_mode_has_the_same_colours(image, tmp_path, mode, suffix):
    options = dict(lossless=True) if suffix == "webp" else {}
    image.convert(mode).save(tmp_path / f"a.{suffix}", **options)
    x = both_ways(tmp_path / f"a.{suffix}", 60)
    assert x.shape == (3, 60, 60) and x.dtype == torch.float32
    assert sides(x) == RED_AND_BLUE


def test_grey_and_16_bit(ramp, tmp_path):
    deep_ramp = (ramp * 65535).astype(np.uint16)
    Image.fromarray(deep_ramp).save(tmp_path / "deep.png")
    Image.fromarray((deep_ramp >> 8).astype(np.uint8)).save(tmp_path / "grey.png")
    deep = both_ways(tmp_path / "deep.png")
    grey = both_ways(tmp_path / "grey.png")
    assert (deep - grey).abs().max() < 2 / 255
    assert torch.equal(deep[0], deep[2]) and deep.max() == 1


@pytest.mark.parametrize("scale", [0.6, 1, 159, 255, 40000])
def test_float_images_are_scaled(ramp, tmp_path, scale):
    "The range is told by the largest value: none of them is blank white."
    Image.fromarray(np.float32(ramp * scale)).save(tmp_path / "a.tif")
    white = next(o for o in (1, 255, 65535) if scale <= o)
    wanted = torch.from_numpy(np.float32(ramp * scale / white))
    assert (both_ways(tmp_path / "a.tif")[0] - wanted).abs().max() < 1 / 255


@pytest.mark.parametrize("scale,kind", [(3, np.float32), (1e7, np.float32), (-1, np.float32), (11130000, np.int32)])
def test_values_without_a_white_are_refused(ramp, tmp_path, scale, kind):
    Image.fromarray((ramp * scale).astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="no known white") as e:
        load_image(tmp_path / "a.tif")
    assert "\n" not in str(e.value)


def test_transparency_is_grey(image, tmp_path):
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    assert (both_ways(tmp_path / "a.png") - 128 / 255).abs().max() < 1e-6


def test_transparent_palette_and_grey(image, tmp_path):
    "One palette entry, or one grey level, may be transparent."
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=2).save(tmp_path / "p.png", transparency=0)
    x = both_ways(tmp_path / "p.png")
    assert sorted(map(tuple, sides(x))) in ([(0, 0, 1), (0.5, 0.5, 0.5)], [(0.5, 0.5, 0.5), (1, 0, 0)])
    Image.new("L", (9, 9), 7).save(tmp_path / "l.png", transparency=7)
    assert (both_ways(tmp_path / "l.png") - 128 / 255).abs().max() < 1e-6


def test_first_frame(image, tmp_path):
    "Of an animation, the first frame is the image."
    other = Image.new("RGB", image.size)
    image.save(tmp_path / "a.gif", save_all=True, append_images=[other, other])
    assert sides(both_ways(tmp_path / "a.gif")) == RED_AND_BLUE


def profile_of(space):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def exchange_red_and_green(icc):
    "The profile with two primaries exchanged, and another name."
    for old, new in ((b"rXYZ", b"?XYZ"), (b"gXYZ", b"rXYZ"), (b"?XYZ", b"gXYZ")):
        icc = icc.replace(old, new)
    return icc.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile_is_applied(image, tmp_path, mode, suffix):
    "Red numbers mean green under this profile, whatever the file, with transparency and without."
    if (mode, suffix) in (("RGBA", "jpg"), ("P", "jpg"), ("P", "webp")):
        pytest.skip("no such file")
    icc = exchange_red_and_green(profile_of("sRGB"))
    image.convert(mode).save(tmp_path / f"a.{suffix}", icc_profile=icc)
    assert sides(both_ways(tmp_path / f"a.{suffix}")) == ([0, 1, 0], [0, 0, 1])


@pytest.mark.parametrize("icc", [b"no profile", profile_of("LAB"), profile_of("sRGB")])
def test_unusable_or_same_profile_changes_nothing(image, tmp_path, icc):
    image.save(tmp_path / "a.png", icc_profile=icc)
    assert sides(both_ways(tmp_path / "a.png")) == RED_AND_BLUE


@pytest.mark.parametrize("tag", range(1, 9))
def test_every_rotation_tag(image, tmp_path, tag):
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that a camera would have applied
    stored = image.transpose(Image.Transpose(back[tag])) if tag > 1 else image
    exif = Image.Exif()
    exif[0x0112] = tag
    stored.save(tmp_path / "a.png", exif=exif)
    x = both_ways(tmp_path / "a.png")
    assert x.shape == (3, 60, 90) and sides(x) == RED_AND_BLUE


@pytest.mark.parametrize("size", [(8, 8), (8, 4000), (4000, 9)])
def test_odd_shapes_are_cropped(tmp_path, size):
    Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "a.png")
    x = both_ways(tmp_path / "a.png", 32)
    assert x.shape == (3, 32, 32) and mean_colour(x) == [1, 0, 0]


@pytest.mark.parametrize(
    "make,says",
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "folder"),
        (lambda p: p.write_bytes(b""), "not an image"),
        (lambda p: p.write_text("<svg/>"), "not an image"),
        (lambda p: p.write_text(ENDLESS), "not an image"),
        (lambda p: Image.new("RGB", (1, 1)).save(p), "too small"),
        (lambda p: Image.new("1", (20000, 20000)).save(p), "too large"),
        (lambda p: Image.new("1", (20000, 10)).save(p), "too large"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "not an image"),
    ],
)
def test_bad_files(tmp_path, make, says):
    path = tmp_path / "a.png"
    make(path)
    start = time.monotonic()
    with pytest.raises(ImageError, match=says) as e:
        load_image(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)
    assert time.monotonic() - start < 5


def test_bad_pillow_images(tmp_path):
    "A Pillow image is checked as a file is: no program is run, and nothing tiny passes."
    (tmp_path / "a.eps").write_text(ENDLESS)
    with pytest.raises(ImageError, match="EPS files are not opened"):
        load_image(Image.open(tmp_path / "a.eps"))
    with pytest.raises(ImageError, match="too small"):
        load_image(Image.new("RGB", (1, 1)))


def test_cut_short(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    for share in (0.2, 0.5, 0.9):
        (tmp_path / "b.jpg").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ImageError, match="damaged|not an image"):
            load_image(tmp_path / "b.jpg")
        with pytest.raises(ImageError, match="damaged"):
            load_image(Image.open(tmp_path / "b.jpg"))
    assert load_image(tmp_path / "a.jpg").shape == (3, 128, 128)


@pytest.mark.parametrize("name", ["a.psd", "a.fits", "a.eps", "a.pdf", "a.xyz"])
def test_formats_that_are_not_written(tmp_path, name):
    with pytest.raises(ImageError, match="images are not written as"):
        check_output_path(tmp_path / name)
    with pytest.raises(ImageError, match="images are not written as"):
        save_image(torch.ones(3, 8, 8), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm"])
def test_formats_that_are_written(tmp_path, suffix):
    path = save_image(torch.full((3, 16, 16), 0.5), tmp_path / "new" / f"a.{suffix}")
    assert (load_image(path) - 0.5).abs().max() < 0.02


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = save_image(torch.ones(3, 8, 8), tmp_path / "a.png")
    before = path.read_bytes()

    def full(self, p, *args, **kwargs):
        p.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(p))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError):
        save_image(torch.zeros(3, 8, 8), path)
    assert path.read_bytes() == before and [o.name for o in tmp_path.iterdir()] == ["a.png"]
