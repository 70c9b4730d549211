"""HunyuanVideo."""

from pure.models.hunyuan_video.denoiser import Conditioning, hunyuan_video

__all__ = ["Conditioning", "hunyuan_video"]
