"""Images and masks onto the network's grid: exact on tiny images, and against Pillow and TorchRay."""

import io
import math
import pickle
import struct
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sise.benchmark.datasets.images import to_rgb, upright
from sise.benchmark.models.preprocessing import CAFFE_MEAN, Preprocessing, _nearest
from sise.errors import SuiteError

#: 2 rows, 3 columns, all 18 values different: a swap of axes or channels shows.
TINY = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


def photo(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_at_its_own_size_an_image_is_only_shifted_and_scaled():
    got = Preprocessing(size=(2, 3), mean=(1, 2, 3), std=(2, 4, 5))(Image.fromarray(TINY))
    assert got.shape == (3, 2, 3) and got.dtype == torch.float32
    for channel, mean, std in ((0, 1, 2), (1, 2, 4), (2, 3, 5)):
        for row in range(2):
            for column in range(3):
                value = (int(TINY[row, column, channel]) - mean) / std
                assert got[channel, row, column].item() == pytest.approx(value, rel=1e-6)


def test_bgr_reverses_channels_mean_and_std_together():
    options = {"size": (2, 3), "mean": (1, 2, 3), "std": (2, 4, 5)}
    rgb, bgr = Preprocessing(**options), Preprocessing(**options, channels="BGR")
    image = Image.fromarray(TINY)
    assert torch.equal(bgr(image), rgb(image).flip(0))
    assert rgb.black == (-0.5, -0.5, -0.6) and bgr.black == (-0.6, -0.5, -0.5)


def test_black_and_mean_colour_are_what_such_pixels_become():
    preprocessing = Preprocessing(size=(2, 2), mean=(127, 127, 127), std=(128, 128, 128))
    black = preprocessing(Image.new("RGB", (5, 4)))
    assert black[:, 0, 0].tolist() == pytest.approx(preprocessing.black) == [-127 / 128] * 3
    assert preprocessing.mean_colour == pytest.approx([(c - 127) / 128 for c in CAFFE_MEAN])
    assert Preprocessing().mean_colour == (0, 0, 0)
    assert Preprocessing(mean=(0, 0, 0)).mean_colour == CAFFE_MEAN


def test_squash_is_pillow_with_width_and_height_in_their_places():
    image = photo(5, 9)
    got = Preprocessing(size=(6, 4), mean=(0, 0, 0))(image)
    expected = np.asarray(image.resize((4, 6), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert got.shape == (3, 6, 4)
    np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (51, 50)])
def test_shorter_side_without_antialiasing_is_torchrays_transform(shape):
    pytest.importorskip("torchray")
    from torchray.benchmark.models import get_transform

    image = photo(*shape)
    got = Preprocessing(size=(32, 32), geometry="shorter_side", resample="torch_bilinear")(image)
    torch.testing.assert_close(got, get_transform("voc", 32)(image), atol=1e-3, rtol=0)


def test_center_crop_takes_the_middle():
    image = np.zeros((8, 16, 3), np.uint8)
    image[2:6, 6:10, 0] = 200  # the middle 4 x 4
    image[2, 6, 1] = 100  # its first pixel
    preprocessing = Preprocessing(size=(4, 4), geometry="center_crop", resize=8, mean=(0, 0, 0))
    got = preprocessing(Image.fromarray(image))
    assert got.shape == (3, 4, 4)
    assert (got[0] == 200).all() and got[1, 0, 0] == 100 and got[1].sum() == 100
    assert preprocessing.resize_mask(image[..., 0] > 0).all()


def test_center_crop_is_torchvisions():
    from torchvision.transforms import functional

    image = photo(50, 71)
    resized = functional.center_crop(functional.resize(image, 37), 32)
    got = Preprocessing(size=(32, 32), geometry="center_crop", resample="bilinear", mean=(0, 0, 0))(image)
    np.testing.assert_array_equal(got.numpy(), np.asarray(resized).transpose(2, 0, 1))


def test_a_mask_is_resized_by_hand():
    mask = np.array([[1, 0, 0], [0, 0, 1]], dtype=bool)
    # rows of 4 from 2: 0 0 1 1; columns of 2 from 3: centres 0.75 and 2.25 -> 0 and 2
    got = Preprocessing(size=(4, 2)).resize_mask(mask)
    np.testing.assert_array_equal(got, [[1, 0], [1, 0], [0, 1], [0, 1]])
    assert got.dtype == bool


@pytest.mark.parametrize("shape", [(5, 9), (333, 501), (7, 3), (225, 223)])
def test_masks_are_resized_like_pillows_nearest(shape):
    # Odd to even sizes: no centre lies between two pixels, where Pillow's rounding errors decide.
    mask = np.random.default_rng(1).random(shape) < 0.5
    for size in ((224, 224), (14, 30)):
        expected = Image.fromarray(mask.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(Preprocessing(size=size).resize_mask(mask), np.asarray(expected) > 0)


@pytest.mark.parametrize(("length", "new"), [(480, 224), (375, 224), (224, 224), (500, 29), (3, 8)])
def test_the_index_rule_holds_exactly_also_between_two_pixels(length, new):
    ramp = np.tril(np.ones((length, length), bool))  # row r holds r + 1 ones
    got = Preprocessing(size=(new, length)).resize_mask(ramp).sum(1) - 1
    assert got.tolist() == [math.floor((Fraction(i) + Fraction(1, 2)) * length / new) for i in range(new)]


def test_masks_are_resized_like_nearest_exact():
    """Every size to 700, also those where a centre lies between two pixels; Pillow's rounding differs in some."""
    for length in range(1, 701):
        ramp = torch.arange(float(length))
        exact = torch.nn.functional.interpolate(ramp[None, None], size=224, mode="nearest-exact")[0, 0]
        np.testing.assert_array_equal(_nearest(length, 224), exact.numpy())


@pytest.mark.parametrize("geometry", ["squash", "shorter_side", "center_crop"])
@pytest.mark.parametrize("shape", [(41, 61), (61, 41)])
def test_image_and_mask_share_the_geometry(geometry, shape):
    mask = np.zeros(shape, dtype=bool)
    mask[shape[0] // 2 :, : shape[1] // 2] = True  # the lower left quarter
    image = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    preprocessing = Preprocessing(size=(32, 32), geometry=geometry, resample="nearest", mean=(0, 0, 0))
    np.testing.assert_array_equal(preprocessing(image)[0].numpy() > 0, preprocessing.resize_mask(mask))


def test_every_mode_becomes_rgb():
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    expected = np.repeat(grey[..., None], 3, axis=2)
    images = {
        "L": Image.fromarray(grey),
        "I;16": Image.fromarray(grey.astype(np.uint16) * 257),
        "I": Image.fromarray(grey.astype(np.int32)),
        "F": Image.fromarray(grey.astype(np.float32) / 255),
        "P": Image.fromarray(grey).convert("P"),
        "CMYK": Image.fromarray(expected).convert("CMYK"),
        "LA": Image.fromarray(grey).convert("LA"),
    }
    for mode, image in images.items():
        assert image.mode == mode
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), expected, err_msg=mode)


def test_transparent_pixels_are_white_and_black_and_white_is_kept():
    clear = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    palette.info["transparency"] = 0
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)
    colour_key = Image.new("RGB", (2, 1), (10, 20, 30))
    colour_key.putpixel((1, 0), (10, 20, 31))
    colour_key.info["transparency"] = (10, 20, 30)
    assert [to_rgb(colour_key).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 20, 31)]
    assert to_rgb(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)


def test_an_exif_orientation_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    Image.fromarray(TINY).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert to_rgb(image).size == (3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"geometry": "squish"}, "squash"),
        ({"resample": "cubic"}, "bicubic"),
        ({"channels": "RBG"}, "RGB"),
        ({"size": (224,)}, "expected 2 numbers"),
        ({"size": 224}, "expected 2 numbers"),
        ({"size": (1.5, 2)}, "expected 2 numbers"),
        ({"size": (0, 2)}, "at least one pixel"),
        ({"mean": (1, 2)}, "expected 3 numbers"),
        ({"std": (1, 0, 1)}, "positive"),
        ({"size": (2, 3), "geometry": "center_crop"}, "square"),
        ({"geometry": "center_crop", "resize": 10}, "at least the size"),
    ],
)
def test_wrong_settings_are_explained(options, message):
    with pytest.raises(SuiteError, match=message):
        Preprocessing(**options)


@pytest.mark.parametrize("shape", [(1, 51), (10**6, 7)])
def test_strips_would_become_huge_and_are_refused_unless_squashed(shape):
    """A row of 51 pixels, its side scaled to 224, would become 11424 pixels wide."""
    for geometry in ("shorter_side", "center_crop"):
        for call, given in (("__call__", Image.new("1", shape)), ("resize_mask", np.ones(shape, dtype=bool))):
            with pytest.raises(SuiteError, match=rf"geometry={geometry} takes images up to 50 times.*squash"):
                getattr(Preprocessing(geometry=geometry), call)(given)
    assert Preprocessing(geometry="shorter_side")(Image.new("1", (50, 1))).shape == (3, 224, 11_200)
    assert Preprocessing()(Image.new("1", shape)).shape == (3, 224, 224)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(SuiteError, match=r"\(1, 2, 2\)"):
        Preprocessing().resize_mask(np.ones((1, 2, 2)))


def test_it_can_be_sent_to_another_process_and_compared():
    preprocessing = Preprocessing(size=[4, 4], mean=[1, 2, 3])
    assert pickle.loads(pickle.dumps(preprocessing)) == preprocessing
    assert preprocessing.size == (4, 4) and preprocessing.mean == (1.0, 2.0, 3.0)


def with_exif(picture, entries):
    """A JPEG file of a picture with an EXIF block of raw entries (tag, type, count, four bytes)."""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=95)
    data = data.getvalue()
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + b"\0" * 4
    return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]


def orientation(value):
    return (0x0112, 3, 1, struct.pack("<HH", value, 0))


TEXT = b"abc\0"


class TestUpright:
    def corners(self):
        """Four corners of different grey, so that each of the eight orientations is another picture."""
        pixels = np.zeros((48, 32), np.uint8)
        for value, (y, x) in ((60, (0, 0)), (120, (0, 16)), (180, (24, 0)), (240, (24, 16))):
            pixels[y : y + 24, x : x + 16] = value
        return Image.fromarray(pixels)

    @pytest.mark.parametrize("value", range(1, 9))
    def test_all_orientations_as_pillow_turns_them(self, value):
        image = Image.open(io.BytesIO(with_exif(self.corners(), [orientation(value)])))
        turned = upright(image)
        assert turned.size == ((32, 48) if value < 5 else (48, 32))
        np.testing.assert_array_equal(turned, ImageOps.exif_transpose(image))

    def test_the_eight_differ(self):
        files = [with_exif(self.corners(), [orientation(value)]) for value in range(1, 9)]
        assert len({upright(Image.open(io.BytesIO(file))).tobytes() for file in files}) == 8

    @pytest.mark.parametrize("other", [(0x011A, 2, 4, TEXT), (0xA005, 2, 4, TEXT), (0x8769, 2, 4, TEXT),
                                       (0x011A, 5, 1, b"\xff\xff\xff\xff"), (0x9286, 99, 7, TEXT)])  # fmt: skip
    def test_other_entries_of_other_types_do_not_matter(self, other):
        image = Image.open(io.BytesIO(with_exif(self.corners(), [orientation(6), other])))
        assert upright(image).size == (48, 32)

    @pytest.mark.parametrize("entry", [
        orientation(0), orientation(9), orientation(65535), (0x0112, 2, 4, TEXT),
        (0x0112, 5, 1, b"\xff\xff\0\0"), (0x0112, 99, 1, TEXT), (0x0112, 7, 4, TEXT)])  # fmt: skip
    def test_an_orientation_that_is_none_leaves_the_picture(self, entry):
        assert upright(Image.open(io.BytesIO(with_exif(self.corners(), [entry])))).size == (32, 48)

    def test_a_damaged_block_leaves_the_picture(self):
        whole = with_exif(self.corners(), [orientation(6)])
        start = whole.index(b"Exif")
        for position in range(start + 6, start + 32):
            for value in (0, 255):
                file = whole[:position] + bytes([value]) + whole[position + 1 :]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert upright(Image.open(io.BytesIO(file))).size in ((32, 48), (48, 32))

    def test_a_tiff_is_turned_once(self):
        data = io.BytesIO()
        self.corners().save(data, "TIFF", tiffinfo={0x0112: 6})
        assert upright(Image.open(data)).size == (48, 32)
