"""Known options that are not supported: why, what to do instead, and the values that change nothing and are accepted.

The flags of the command line and the fields of HTTP requests have the same names, so one reason serves both.
"""

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["FIELDS", "FLAGS", "Later"]


@attrs.frozen
class Later:
    """A known option that is not supported.

    Attributes:
        reason: why it is refused.
        cure: what to do instead.
        nothing: values that change nothing and are accepted; leaving the option out is always accepted.
    """

    reason: str
    cure: str = "leave it out"
    nothing: tuple[Any, ...] = (False,)

    def asked(self, value: Any) -> bool:
        """Whether a value asks for what is not supported.

        >>> Later("not in this version").asked(True), Later("not in this version").asked(False)
        (True, False)
        """
        return value is not None and value not in self.nothing

    def __str__(self) -> str:
        """Reason and cure, as they follow the option in a message."""
        return f"is not available: {self.reason}; {self.cure}"


BRANCHES = "the branches of guidance run as one batch"
SHARE = "leave it out; --num-gpus and --ulysses-degree divide that batch"
RESIDENT = "the whole model stays on its device in this version"
LORA = "LoRA is not supported in this version"
PROFILER = "this version has no profiler"
UPSCALING = "this version does not upscale"
INTERPOLATION = "this version does not interpolate frames"
FULL_SIZE = "every step runs at full resolution"
READS_VIDEO = "no model of this version takes videos as input"

BOTH: Mapping[str, Later] = {
    "enable_teacache": Later("TeaCache is not supported in this version", "use enable_cache_dit"),
    "lora_path": Later(LORA, "merge the weights into the checkpoint", ("",)),
    "lora_scale": Later(LORA, nothing=()),
    "diffusers_kwargs": Later("no diffusers pipeline is used", nothing=({}, "{}", "")),
}
"""Options that are refused as flags and as fields."""

FLAGS: Mapping[str, Later] = {
    **BOTH,
    "enable_teacache": attrs.evolve(BOTH["enable_teacache"], cure="use --enable-cache-dit or --cache-dit-config"),
    "cfg_parallel_size": Later(BRANCHES, SHARE, (False, 1)),
    "dp_size": Later(
        "data parallelism is not supported in this version", "leave it out, or start one run per device", (1,)
    ),
    "enable_cfg_parallel": Later(BRANCHES, SHARE),
    "dit_cpu_offload": Later(RESIDENT),
    "text_encoder_cpu_offload": Later(RESIDENT),
    "image_encoder_cpu_offload": Later(RESIDENT),
    "vae_cpu_offload": Later(RESIDENT),
    "dit_layerwise_offload": Later(RESIDENT),
    "pin_cpu_memory": Later("nothing is offloaded, so no memory is pinned"),
    "vae_tiling": Later("images are decoded in one piece", "leave it out, or choose a smaller image"),
    "vae_slicing": Later("images are always decoded one by one"),
    "trust_remote_code": Later(
        "code from a checkpoint is never run", "leave it out; the supported checkpoints need none"
    ),
    "revision": Later("the main revision of a hub id is used", "download the revision and pass its folder", ("main",)),
    "profile": Later(PROFILER, "use --perf-dump-path for the time of every step"),
    "return_frames": Later("a command cannot return arrays", "use the library: load_pipeline(...).generate(...)"),
    "warmup_mode": Later("server is a mode of puredit serve", "use --warmup-mode request", ("off", "request")),
}
"""Flags of the command line that are refused, by name with underscores."""

FIELDS: Mapping[str, Later] = {
    **BOTH,
    "mask": Later("masks are not supported: an edit changes the whole picture", nothing=("",)),
    "background": Later("the models produce opaque pictures", nothing=("auto", "opaque")),
    "quality": Later("there is only one quality", "set more num_inference_steps", ("auto", "standard", "lossless")),
    "style": Later("the models have no style setting", "describe the style in the prompt", ("vivid",)),
    "moderation": Later("the server does not filter content", nothing=("auto", "low")),
    "stream": Later("responses are not streamed"),
    "partial_images": Later("responses are not streamed", nothing=(0,)),
    "input_fidelity": Later("the fidelity is fixed by the model", nothing=("high", "low")),
    "generator_device": Later("starting noise is the same on every device", nothing=("cpu", "cuda", "musa")),
    "enhance_prompt": Later("prompts are used unchanged"),
    "task_type": Later("the checkpoint has only one task", nothing=()),
    "enable_spectrum": Later("Spectrum is not supported in this version", "use enable_cache_dit"),
    "cfg_gate_step": Later("guidance runs in every step", nothing=(1, 1.0)),
    "guidance_rescale": Later("guidance is not rescaled", nothing=(0, 0.0)),
    "cfg_normalization": Later("the normalisation of guidance is fixed by the model", nothing=(0, 0.0)),
    "skip_softmax_params": Later("softmax is never skipped", nothing=({},)),
    "flow_shift": Later("the shift is set by the checkpoint", nothing=()),
    "boundary_ratio": Later("the boundary of the experts is set by the checkpoint", nothing=()),
    "enable_upscaling": Later(UPSCALING),
    "upscaling_model_path": Later(UPSCALING, nothing=("",)),
    "upscaling_scale": Later(UPSCALING, nothing=(1, 4)),
    "enable_frame_interpolation": Later(INTERPOLATION),
    "frame_interpolation_exp": Later(INTERPOLATION, nothing=(1,)),
    "frame_interpolation_scale": Later(INTERPOLATION, nothing=(1, 1.0)),
    "perf_dump_path": Later("requests cannot write files", "leave it out; the response has times and decisions", ("",)),
    "output_path": Later("the folder is set by the server's --output-path", nothing=("",)),
    "profile": Later(PROFILER, "leave it out; the response has the time of every step"),
    "num_profiled_timesteps": Later(PROFILER, nothing=(5,)),
    "profile_all_stages": Later(PROFILER),
    "progressive_mode": Later(FULL_SIZE, nothing=("fullres",)),
    "progressive_levels": Later(FULL_SIZE, nothing=(1,)),
    "progressive_delta": Later(FULL_SIZE, nothing=(0.01,)),
    "return_frames": Later("videos are sent as files"),
    "video_path": Later(READS_VIDEO, nothing=("",)),
    "video_url": Later(READS_VIDEO, nothing=("",)),
}
"""Fields of HTTP requests that are refused."""
