"""What a diffusers folder says about itself, checked before anything heavy is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from pure import FlowMatchEuler
from pure.models.errors import CheckpointError
from pure.models.flux_parameters import check_config
from pure.models.weights import read_json

# Component by component the classes that a pipeline may be made of.
PIPELINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "FluxPipeline": {
        "transformer": ("FluxTransformer2DModel",),
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
    }
}
SCHEDULER_FIELDS: Mapping[str, str] = {
    "shift": "shift",
    "use_dynamic_shifting": "dynamic",
    "base_shift": "base_shift",
    "max_shift": "max_shift",
    "base_image_seq_len": "base_tokens",
    "max_image_seq_len": "max_tokens",
    "time_shift_type": "time_shift",
    "num_train_timesteps": "train_timesteps",
}


@attrs.frozen(kw_only=True)
class Description:
    """What a folder holds: class by component, the transformer's config, and the solver."""

    classes: Mapping[str, str]
    transformer: Mapping[str, Any]
    solver: FlowMatchEuler


def describe(folder: Path) -> Description:
    """Read and check the JSON files of a diffusers folder.

    Raises:
        CheckpointError: a file is missing, or something in it is not supported.
    """
    classes = _classes(folder)
    file = folder / "transformer" / "config.json"
    transformer = read_json(file)
    try:
        settings = check_config(transformer)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    channels, out = settings["in_channels"], settings["out_channels"] or settings["in_channels"]
    if out != channels or channels % 4 or settings["patch_size"] != 1:
        raise CheckpointError(
            f"{file}: {channels} channels in, {out} out and patch_size {settings['patch_size']}; text-to-image "
            "needs as many out as in, a multiple of 4, and patch_size 1"
        )
    return Description(classes=classes, transformer=transformer, solver=_solver(folder / "scheduler"))


def _classes(folder: Path) -> dict[str, str]:
    file = folder / "model_index.json"
    index = read_json(file)
    name = str(index.get("_class_name"))
    if name not in PIPELINES:
        raise CheckpointError(f"{file} describes a {name}; supported: {', '.join(PIPELINES)}")
    found: dict[str, str] = {}
    for component, supported in PIPELINES[name].items():
        entry = index.get(component)
        found[component] = str(entry[-1]) if isinstance(entry, list) and entry else "None"
        if found[component] not in supported:
            raise CheckpointError(f"{file}: {component} is a {found[component]}; supported: {', '.join(supported)}")
    return found


def _solver(folder: Path) -> FlowMatchEuler:
    file = folder / "scheduler_config.json"
    config = read_json(file)
    if (name := config.get("_class_name")) != "FlowMatchEulerDiscreteScheduler":
        raise CheckpointError(f"{file} describes a {name}; supported: FlowMatchEulerDiscreteScheduler")
    # Options that are switched off change nothing, whether we know them or not.
    wrong = [
        f"{key}={value!r}"
        for key, value in sorted(config.items())
        if key[0] != "_" and key not in SCHEDULER_FIELDS and value
    ]
    if config.get("time_shift_type", "exponential") not in ("exponential", "linear"):
        wrong.append(f"time_shift_type={config['time_shift_type']!r}")
    if wrong:
        raise CheckpointError(f"{file} sets {', '.join(wrong)}, not implemented; set it to false, null or the default")
    return FlowMatchEuler(**{field: config[key] for key, field in SCHEDULER_FIELDS.items() if key in config})
