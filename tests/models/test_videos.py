"""Sizes of videos, and videos as files, without a checkpoint."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from pure.models.common.video_pipeline import with_first
from pure.models.generation import Video
from pure.models.wan.vae import VideoCodec


def codec(patch: tuple[int, int, int], period: int = 4) -> VideoCodec:
    sizes = {"scale_factor_spatial": 8, "scale_factor_temporal": period, "z_dim": 16}
    return VideoCodec(vae=SimpleNamespace(config=sizes), patch=patch)


@pytest.mark.parametrize(
    ("patch", "period", "frames", "latents", "tokens"),
    [((1, 2, 4), 4, 9, 3, 3), ((1, 2, 4), 1, 9, 9, 9), ((3, 2, 4), 4, 21, 6, 2)],
)
def test_height_and_width_have_steps_of_their_own(patch, period, frames, latents, tokens):
    found = codec(patch, period)
    sizes = VideoCodec.sizes(found.vae.config, patch)
    assert (sizes.height, sizes.width, sizes.frames) == (16, 32, period * patch[0])
    assert found.size(frames, 48, 64) == (latents, 6, 8)
    assert found.grid(frames, 48, 64) == (tokens, 3, 2)
    with pytest.raises(ValueError, match="height=40 is not a positive multiple of 16 pixels"):
        found.size(frames, 40, 64)
    with pytest.raises(ValueError, match="width=48 is not a positive multiple of 32 pixels"):
        found.size(frames, 48, 48)


def test_a_size_that_fits_a_picture_is_rounded_down_to_whole_tokens():
    found = codec((1, 2, 2))
    assert found.fitted(Image.new("RGB", (100, 100)), 63 * 63) == (48, 48)
    assert found.fitted(Image.new("RGB", (400, 100)), 64 * 64) == (32, 128)
    assert found.fitted(Image.new("RGB", (4000, 10)), 64 * 64) == (16, 1280)  # a token at least


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_first_frame_takes_the_type_and_the_rows_of_the_latents(dtype):
    latents = torch.arange(48.0).view(2, 2, 3, 2, 2).to(dtype)
    found = with_first(torch.full((1, 2, 1, 2, 2), -1.0, dtype=torch.float32), latents)
    assert found.dtype == dtype and found.shape == latents.shape
    assert (found[:, :, 0] == -1).all() and torch.equal(found[:, :, 1:], latents[:, :, 1:])


def test_frames_are_shown_as_long_as_their_number_a_second_says(tmp_path):
    frames = Video(Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 120, 240))
    frames.save(tmp_path / "video.gif", fps=20.0)
    with Image.open(tmp_path / "video.gif") as saved:
        assert getattr(saved, "n_frames", 1) == 3 and saved.info["duration"] == 50
