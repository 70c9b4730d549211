"""Known options that are not supported: why, what to do instead, and the values that change nothing and are accepted.

The flags of the command line and the fields of HTTP requests have the same names, so one reason serves both.
"""

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["FIELDS", "FLAGS", "Refusal"]


@attrs.frozen
class Refusal:
    """A known option that is not supported.

    Attributes:
        reason: why it is refused.
        cure: what to do instead.
        nothing: values that change nothing and are accepted, as is leaving the option out.
    """

    reason: str
    cure: str = "leave it out"
    nothing: tuple[Any, ...] = (False,)

    def refuses(self, value: Any) -> bool:
        """Whether a value would do something that is not supported.

        >>> Refusal("not in this version").refuses(True), Refusal("not in this version").refuses(False)
        (True, False)
        """
        return value is not None and value not in self.nothing

    def __str__(self) -> str:
        """Reason and cure, as they follow the option in a message."""
        return f"is not available: {self.reason}; {self.cure}"


RESIDENT = "the whole model stays on its device in this version"
LORA = "LoRA is not supported in this version"
PROFILER = "this version has no profiler"
UPSCALING = "this version does not upscale"
INTERPOLATION = "this version does not interpolate frames"
FULL_SIZE = "every step runs at full resolution"
READS_VIDEO = "no model of this version takes videos as input"

BOTH: Mapping[str, Refusal] = {
    "lora_path": Refusal(LORA, "merge the weights into the checkpoint", ("",)),
    "lora_scale": Refusal(LORA, nothing=()),
    "diffusers_kwargs": Refusal("no diffusers pipeline is used", nothing=({}, "{}", "")),
}
"""Options that are refused as flags and as fields."""

FLAGS: Mapping[str, Refusal] = {
    **BOTH,
    "dit_cpu_offload": Refusal(RESIDENT),
    "text_encoder_cpu_offload": Refusal(RESIDENT),
    "image_encoder_cpu_offload": Refusal(RESIDENT),
    "vae_cpu_offload": Refusal(RESIDENT),
    "dit_layerwise_offload": Refusal(RESIDENT),
    "pin_cpu_memory": Refusal("nothing is offloaded, so no memory is pinned"),
    "vae_tiling": Refusal("images are decoded in one piece", "leave it out, or choose a smaller image"),
    "vae_slicing": Refusal("images are always decoded one by one"),
    "trust_remote_code": Refusal(
        "code from a checkpoint is never run", "leave it out; the supported checkpoints need none"
    ),
    "revision": Refusal(
        "the main revision of a hub id is used", "download the revision and pass its folder", ("main",)
    ),
    "profile": Refusal(PROFILER, "use --perf-dump-path for the time of every step"),
    "return_frames": Refusal("a command cannot return arrays", "use the library: load_pipeline(...).generate(...)"),
    "warmup_mode": Refusal("server is a mode of puredit serve", "use --warmup-mode request", ("off", "request")),
}
"""Flags of the command line that are refused, by name with underscores."""

FIELDS: Mapping[str, Refusal] = {
    **BOTH,
    "mask": Refusal("masks are not supported: an edit changes the whole picture", nothing=("",)),
    "background": Refusal("the models produce opaque pictures", nothing=("auto", "opaque")),
    "quality": Refusal("there is only one quality", "set more num_inference_steps", ("auto", "standard", "lossless")),
    "style": Refusal("the models have no style setting", "describe the style in the prompt", ("vivid",)),
    "moderation": Refusal("the server does not filter content", nothing=("auto", "low")),
    "stream": Refusal("responses are not streamed"),
    "partial_images": Refusal("responses are not streamed", nothing=(0,)),
    "input_fidelity": Refusal("the fidelity is fixed by the model", nothing=("high", "low")),
    "generator_device": Refusal("starting noise is the same on every device", nothing=("cpu", "cuda", "musa")),
    "enhance_prompt": Refusal("prompts are used unchanged"),
    "task_type": Refusal("the checkpoint has only one task", nothing=()),
    "enable_spectrum": Refusal("Spectrum is not supported in this version", "use enable_cache_dit"),
    "cfg_gate_step": Refusal("guidance runs in every step", nothing=(1, 1.0)),
    "guidance_rescale": Refusal("guidance is not rescaled", nothing=(0, 0.0)),
    "cfg_normalization": Refusal("the normalisation of guidance is fixed by the model", nothing=(0, 0.0)),
    "skip_softmax_params": Refusal("softmax is never skipped", nothing=({},)),
    "flow_shift": Refusal("the shift is set by the checkpoint", nothing=()),
    "boundary_ratio": Refusal("the boundary of the experts is set by the checkpoint", nothing=()),
    "enable_upscaling": Refusal(UPSCALING),
    "upscaling_model_path": Refusal(UPSCALING, nothing=("",)),
    "upscaling_scale": Refusal(UPSCALING, nothing=(1, 4)),
    "enable_frame_interpolation": Refusal(INTERPOLATION),
    "frame_interpolation_exp": Refusal(INTERPOLATION, nothing=(1,)),
    "frame_interpolation_scale": Refusal(INTERPOLATION, nothing=(1, 1.0)),
    "perf_dump_path": Refusal(
        "requests cannot write files", "leave it out; the response has times and decisions", ("",)
    ),
    "output_path": Refusal("the folder is set by the server's --output-path", nothing=("",)),
    "profile": Refusal(PROFILER, "leave it out; the response has the time of every step"),
    "num_profiled_timesteps": Refusal(PROFILER, nothing=(5,)),
    "profile_all_stages": Refusal(PROFILER),
    "progressive_mode": Refusal(FULL_SIZE, nothing=("fullres",)),
    "progressive_levels": Refusal(FULL_SIZE, nothing=(1,)),
    "progressive_delta": Refusal(FULL_SIZE, nothing=(0.01,)),
    "return_frames": Refusal("videos are sent as files"),
    "video_path": Refusal(READS_VIDEO, nothing=("",)),
    "video_url": Refusal(READS_VIDEO, nothing=("",)),
}
"""Fields of HTTP requests that are refused."""
