"""The fields of a request's body: known ones, those that ask for what is not there, and unknown ones."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

import attrs

from pure.engine.errors import Misuse
from pure.serving.http.forms import FLAG, OBJECT, SIZE, TEXT, Kind, many, number, one_of, whole

__all__ = ["EDIT", "IMAGE", "VIDEO", "read_fields"]

QUALITIES = {"maximum": 100, "high": 90, "medium": 55, "low": 35}
EXTRAS = ("extra_body", "extra_json", "extra_args", "extra_params")
"""Objects whose fields count as if they stood at the top."""

COMMON: Mapping[str, Kind] = {
    "prompt": TEXT,
    "negative_prompt": TEXT,
    "model": TEXT,
    "size": SIZE,
    "width": whole(),
    "height": whole(),
    "n": whole(1, 10),
    "seed": many(whole(0)),
    "num_inference_steps": whole(),
    "guidance_scale": number(),
    "guidance_scale_2": number(),
    "true_cfg_scale": number(),
    "max_sequence_length": whole(),
    "enable_cache_dit": FLAG,
    # What it holds is checked with everything else that configures the cache.
    "cache_dit_params": Kind(lambda value: value, "an object"),
    "user": TEXT,
}
IMAGE: Mapping[str, Kind] = {
    **COMMON,
    "response_format": one_of("url", "b64_json"),
    "output_format": one_of("png", "jpeg", "jpg", "webp"),
    "output_compression": whole(0, 100),
    "output_quality": one_of("default", *QUALITIES),
}
"""Fields of `POST /v1/images/generations`."""
EDIT: Mapping[str, Kind] = {**IMAGE, "url": many(TEXT)}
"""Fields of `POST /v1/images/edits` that are not files."""
VIDEO: Mapping[str, Kind] = {
    **COMMON,
    "num_outputs_per_prompt": whole(1, 10),
    "num_frames": whole(),
    "fps": whole(),
    "seconds": number(),
    "input_reference": OBJECT,
    "reference_url": TEXT,
}
"""Fields of `POST /v1/videos` that are not files."""


@attrs.frozen
class Later:
    """Why a field is refused, and the values of it that ask for nothing."""

    reason: str
    nothing: tuple = (False,)


UPSCALING = "there is no upscaling in this version"
PROFILING = "there is no profiler in this version; the response says where the time went"
LATER: Mapping[str, Later] = {
    "mask": Later("masks are not supported: an edit changes the whole picture", ("",)),
    "background": Later("these models draw opaque pictures", ("auto", "opaque")),
    "quality": Later("there is one quality; ask for more num_inference_steps", ("auto", "standard", "lossless")),
    "style": Later("the model has one style; say it in the prompt", ("vivid",)),
    "moderation": Later("nothing is filtered here", ("auto", "low")),
    "stream": Later("responses are sent whole"),
    "partial_images": Later("responses are sent whole", (0,)),
    "input_fidelity": Later("pictures are read as the model reads them", ("high", "low")),
    "generator_device": Later("starting noise is the same on every device", ("cpu", "cuda", "musa")),
    "enhance_prompt": Later("prompts are taken as they are"),
    "task_type": Later("the checkpoint has one task", ()),
    "enable_teacache": Later("TeaCache is not in this version; use enable_cache_dit"),
    "enable_spectrum": Later("Spectrum is not in this version; use enable_cache_dit"),
    "cfg_gate_step": Later("guidance runs in every step", (1, 1.0)),
    "guidance_rescale": Later("guidance is not rescaled", (0, 0.0)),
    "cfg_normalization": Later("guidance is normalised as the model wants it", (0, 0.0)),
    "attention_backend_override": Later("PyTorch's attention is used", ("native", "torch_sdpa")),
    "skip_softmax_params": Later("attention is computed whole", ({},)),
    "flow_shift": Later("the shift is the checkpoint's", ()),
    "boundary_ratio": Later("the boundary of the experts is the checkpoint's", ()),
    "enable_upscaling": Later(UPSCALING),
    "upscaling_model_path": Later(UPSCALING, ("",)),
    "upscaling_scale": Later(UPSCALING, (1, 4)),
    "enable_frame_interpolation": Later("there is no frame interpolation in this version"),
    "frame_interpolation_exp": Later("there is no frame interpolation in this version", (1,)),
    "frame_interpolation_scale": Later("there is no frame interpolation in this version", (1, 1.0)),
    "diffusers_kwargs": Later("no diffusers pipeline is called", ({}, "{}", "")),
    "perf_dump_path": Later("a request writes no file of its own; the response has times and decisions", ("",)),
    "output_path": Later("--output-path of the server says where files go", ("",)),
    "profile": Later(PROFILING),
    "num_profiled_timesteps": Later(PROFILING, (5,)),
    "profile_all_stages": Later(PROFILING),
    "progressive_mode": Later("every step is taken at full size", ("fullres",)),
    "progressive_levels": Later("every step is taken at full size", (1,)),
    "progressive_delta": Later("every step is taken at full size", (0.01,)),
    "return_frames": Later("videos are sent as files"),
    "video_path": Later("no model of this version reads videos", ("",)),
    "video_url": Later("no model of this version reads videos", ("",)),
    "lora_path": Later("LoRA is not in this version; merge the weights into the checkpoint", ("",)),
    "lora_scale": Later("LoRA is not in this version", ()),
}


def read_fields(body: Any, known: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the fields of a body that say something, each as its kind reads it.

    Raises:
        Misuse: lists every field that is unknown, wrong, or asks for what is not there.
    """
    if not isinstance(body, Mapping):
        raise Misuse(f"the body is {_show(body)}; a JSON object with a prompt is wanted")
    found: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, value in _flat(body).items():
        if value is None:
            continue
        if name not in known:
            if message := _foreign(name, value, known):
                wrong[name] = message
            continue
        try:
            found[name] = known[name].read(value)
        except (ValueError, TypeError, OverflowError):
            wrong[name] = f"{name}: found {_show(value)}; allowed: {known[name].allowed}"
    if "prompt" not in found and "prompt" not in wrong:
        wrong["prompt"] = 'prompt: it is missing; allowed: a text, like "a red apple"'
    if wrong:
        raise Misuse("; ".join(wrong.values()), field=next(iter(wrong)))
    return found


def _flat(body: Mapping[str, Any]) -> dict[str, Any]:
    """Put the fields of `extra_body` and its likes at the top; what stands there already wins."""
    found = {name: value for name, value in body.items() if name not in EXTRAS}
    for name in EXTRAS:
        value = body.get(name)
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.strip() else None
            except ValueError as error:
                raise Misuse(f"{name} is not JSON: {error}", field=name) from error
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise Misuse(f"{name}: found {_show(value)}; allowed: an object, or one as JSON text", field=name)
        for inner, entry in _flat(value).items():
            found.setdefault(inner, entry)
    return found


def _foreign(name: str, value: Any, known: Mapping[str, Kind]) -> str | None:
    """Return why a field that is not known is refused; None if it asks for nothing."""
    later = LATER.get(name)
    if later is None:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}"
        return f"{name}: there is no such field here; {hint}"
    asks = value not in later.nothing and not (isinstance(value, str) and _plain(value) in later.nothing)
    return f"{name}={_show(value)} is not available: {later.reason}; leave it out" if asks else None


def _plain(text: str) -> Any:
    """Return what a form's text says."""
    try:
        return json.loads(text.lower())
    except ValueError:
        return text


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
