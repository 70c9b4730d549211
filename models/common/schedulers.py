"""From a scheduler's config to a solver."""

from collections.abc import Mapping
from typing import Any

from pure import FlowMatchEuler, Schedule, UniPC
from pure.models.errors import CheckpointError
from pure.models.family import Description

FLOW_MATCH = "FlowMatchEulerDiscreteScheduler"
FIELDS: Mapping[str, str] = {
    "shift": "shift",
    "use_dynamic_shifting": "dynamic",
    "base_shift": "base_shift",
    "max_shift": "max_shift",
    "base_image_seq_len": "base_tokens",
    "max_image_seq_len": "max_tokens",
    "time_shift_type": "time_shift",
    "shift_terminal": "terminal",
    "num_train_timesteps": "train_timesteps",
}

UNIPC = "UniPCMultistepScheduler"
# Settings of which `UniPC` implements one value: the values that mean it, and diffusers' default.
UNIPC_FIXED: Mapping[str, tuple[tuple[Any, ...], Any]] = {
    "prediction_type": (("flow_prediction",), "epsilon"),
    "use_flow_sigmas": ((True,), False),
    "predict_x0": ((True,), True),
    "solver_order": ((2,), 2),
    "solver_type": (("bh2", "midpoint", "heun", "logrho"), "bh2"),  # diffusers takes the others for bh2
    "lower_order_final": ((True,), True),
    "final_sigmas_type": (("zero",), "zero"),
}
# What changes nothing with flow sigmas.
UNIPC_UNREAD = (
    *("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("timestep_spacing", "steps_offset", "sigma_min", "sigma_max", "time_shift_type"),
    *("dynamic_thresholding_ratio", "sample_max_value"),
)


def flow_match(found: Description, **settings: Any) -> FlowMatchEuler:
    """Return the flow-match Euler solver of a checkpoint; `settings` are added by its pipeline class.

    Raises:
        CheckpointError: the scheduler is of another class, or has an option that is not implemented.
    """
    file, config = scheduler(found, (FLOW_MATCH,))
    wrong = unknown(config, FIELDS)
    if config.get("time_shift_type", "exponential") not in ("exponential", "linear"):
        wrong.append(f"time_shift_type={config['time_shift_type']!r}")
    if wrong:
        raise CheckpointError(f"{file} sets {', '.join(wrong)}, not implemented; set it to false, null or the default")
    given = {field: config[key] for key, field in FIELDS.items() if key in config}
    return FlowMatchEuler(_schedule(file, **given, **settings))


def unipc(found: Description) -> UniPC:
    """Return the UniPC solver of a checkpoint, as Wan configures it.

    Raises:
        CheckpointError: the scheduler is of another class, or has an option that is not implemented.
    """
    file, config = scheduler(found, (UNIPC,))
    other = [
        f"{key}={config.get(key, default)!r} (supported: {allowed[0]!r})"
        for key, (allowed, default) in UNIPC_FIXED.items()
        if config.get(key, default) not in allowed
    ]
    known = dict.fromkeys((*UNIPC_FIXED, *UNIPC_UNREAD, "flow_shift", "num_train_timesteps"))
    if wrong := other + unknown(config, known):
        raise CheckpointError(f"{file} sets {', '.join(wrong)}, not implemented; set it to what is supported or off")
    shift, timesteps = config.get("flow_shift", 1.0), config.get("num_train_timesteps", 1000)
    return UniPC(_schedule(file, shift=shift, spacing="whole", train_timesteps=timesteps, unit=1))


def _schedule(file: str, **settings: Any) -> Schedule:
    """Return the schedule of a file's settings."""
    try:
        return Schedule(**settings)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; set it as diffusers writes it") from error


def scheduler(found: Description, classes: tuple[str, ...]) -> tuple[str, Mapping[str, Any]]:
    """Return the file and the contents of the scheduler's config.

    Raises:
        CheckpointError: it describes none of `classes`.
    """
    file, config = str(found.folder / "scheduler" / "scheduler_config.json"), found.configs["scheduler"]
    if (name := config.get("_class_name")) not in classes:
        raise CheckpointError(f"{file} describes a {name}; supported: {', '.join(classes)}")
    return file, config


def unknown(config: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Return the settings that are not known and not switched off: those change nothing, whether known or not."""
    return [f"{key}={value!r}" for key, value in sorted(config.items()) if key[0] != "_" and key not in known and value]
