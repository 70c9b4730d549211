"""Weights that do not fit their config: which they are, the reason and the cure."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pure.models.checkpoint.reading import shortened
from pure.models.checkpoint.weights import DTYPES, Stored
from pure.models.errors import CheckpointError

__all__ = ["check_groups", "check_numbers", "check_weights", "reason"]

UNQUANTISED = "use the unquantised checkpoint; puredit quantises it itself (see quantize_config)"
MERGE = "merge it with pipe.fuse_lora() and pipe.unload_lora_weights(), and save the pipeline again"
CONVERT = "convert it with the from_single_file of its class in diffusers, and save_pretrained into this folder"
UNWRAP = "unwrap the model and save it again with save_pretrained"
# What a name shows: the end or a part of it, the library it comes from, and the cure.
SIGNS = (
    (r"\.(absmax|nested_absmax|quant_map|nested_quant_map|quant_state\.\w+|SCB)$", "bitsandbytes", UNQUANTISED),
    (r"\.(wscales|wcscales|wtscale|smooth_factor|smooth_factor_orig)$", "Nunchaku", UNQUANTISED),
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ", UNQUANTISED),
    (r"\.weight\._(data|scale|shift)$|\.weight_qtype$", "quanto", UNQUANTISED),
    (r"(^|\.)(scaled_fp8|scale_weight|weight_scale(_\w+)?|scale_input|input_scale)$", "scaled fp8", UNQUANTISED),
)
LORA = r"(^|[._])(lora_(A|B|down|up|embedding_A|embedding_B|magnitude_vector)|base_layer|hada_w\d_\w|lokr_w\d)([._]|$)"
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "module.": "DataParallel or DeepSpeed",
}
ORIGINALS = (
    r"^(double_blocks|single_blocks|joint_blocks|input_blocks|middle_block|output_blocks)\.",
    r"^blocks\.\d+\.(self_attn|cross_attn)\.[qkvo]\.",
    r"^layers\.\d+\.attention\.(qkv|out)\.",
    r"^(double_stream_layers|single_transformer_layers)\.",
)
SINGLE = ("model.diffusion_model.", "diffusion_model.", "net.")  # what single files put before such names


def check_weights(folder: Path, stored: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the stored tensors with those of the config.

    Raises:
        CheckpointError: tensors are missing, unexpected or mis-shaped; they are counted, and the first are named.
    """
    missing = [f"{name} {shapes[name]}" for name in shapes.keys() - stored.keys()]
    unexpected = [f"{name} {stored[name].shape}" for name in stored.keys() - shapes.keys()]
    other = [
        f"{name} is {stored[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in stored and stored[name].shape != shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    check_groups(folder, groups, stored, shapes.keys() - stored.keys())


def check_groups(
    folder: Path, groups: Mapping[str, Collection[str]], stored: Mapping[str, Stored], missing: Collection[str]
) -> None:
    """Refuse tensors that do not fit, if there are any.

    Args:
        folder: of the component.
        groups: what is wrong with which tensors.
        stored: what is there.
        missing: names of what is not.

    Raises:
        CheckpointError: they are counted, the first are named, and the reason is given where it is known.
    """
    lines = [f"  {len(names)} {what}: {shortened(sorted(names))}" for what, names in groups.items() if names]
    if lines:
        why = reason(stored, missing)
        because = f": {why}" if why else ":"
        raise CheckpointError(f"the tensors in {folder} do not fit its config.json{because}\n" + "\n".join(lines))


def check_numbers(folder: Path, stored: Mapping[str, Stored]) -> None:
    """Refuse weights that are no plain floating-point numbers, and adapters beside them.

    Whole numbers in buffers, such as `position_ids`, pass.

    Raises:
        CheckpointError: they are quantised, or an adapter was saved with them.
    """
    if why := _sign(stored):
        raise CheckpointError(f"{folder}: {why}")
    wrong = sorted(
        f"{name} ({tensor.dtype})"
        for name, tensor in stored.items()
        if tensor.dtype not in DTYPES
        and (name.endswith(("weight", "bias")) or tensor.dtype not in ("I64", "I32", "BOOL", "U8"))
    )
    if wrong:
        raise CheckpointError(
            f"{folder} stores numbers as other than {', '.join(DTYPES)}: {shortened(wrong)}; {UNQUANTISED}"
        )


def reason(stored: Mapping[str, Stored], missing: Collection[str]) -> str:
    """Return the reason why tensors have unexpected names or shapes, and the cure; empty if it is unknown."""
    if why := _sign(stored):
        return why
    if any(0 in tensor.shape for tensor in stored.values()):
        return (
            "some tensors are empty, as DeepSpeed ZeRO-3 leaves them in every process; gather them with its "
            "zero_to_fp32.py, and save again"
        )
    if any(name.rpartition(".")[2].startswith(("flat_param", "_flat_param")) for name in stored):
        return "the tensors are those of FSDP, flattened; gather the full state dict, and save again"
    for mark, who in WRAPPERS.items():
        bare = {name.replace(mark, "") for name in stored if mark in name}
        if _most(bare & set(missing), missing):
            return f"the names hold {mark!r}, which {who} puts there; {UNWRAP}"
    if prefix := _prefix(stored, missing):
        return f"the names begin with {prefix!r}; rename the tensors without it, or {CONVERT}"
    if any(name.startswith(("blk.", "token_embd.")) for name in stored):
        return f"the names are those of GGUF; {CONVERT}"
    for name in stored:
        bare = next((name.removeprefix(prefix) for prefix in SINGLE if name.startswith(prefix)), name)
        if any(re.search(pattern, bare) for pattern in ORIGINALS):
            return f"the names are those of a single-file checkpoint (original or ComfyUI); {CONVERT}"
    return ""


def _sign(names: Iterable[str]) -> str:
    """Return what the names show: quantised weights, or an adapter."""
    names = list(names)
    for pattern, who, cure in SIGNS:
        if found := [name for name in names if re.search(pattern, name)]:
            return f"the weights are quantised ({who}: {shortened(sorted(found)[:1])}); {cure}"
    lora = [name for name in names if re.search(LORA, name)]
    if lora and len(lora) >= len(names) / 2 and not any("base_layer" in name for name in lora):
        return f"this is a LoRA adapter ({min(lora)}) and not a model; load the model it was trained for, and {MERGE}"
    return f"a LoRA adapter was saved with the model ({min(lora)}); {MERGE}" if lora else ""


def _prefix(stored: Iterable[str], missing: Collection[str]) -> str:
    """Return what stands before most of the missing names, if it is the same everywhere."""
    wanted, before = set(missing), Counter[str]()
    for name in stored:
        parts = name.split(".")
        for start in range(1, len(parts)):
            if ".".join(parts[start:]) in wanted:
                before[".".join(parts[:start]) + "."] += 1
                break
    (prefix, count), *_ = before.most_common(1) or [("", 0)]
    return prefix if count * 2 > len(wanted) else ""


def _most(found: Collection[str], wanted: Collection[str]) -> bool:
    return bool(found) and len(found) * 2 > len(wanted)
