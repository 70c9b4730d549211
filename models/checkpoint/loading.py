"""From a checkpoint to a pipeline."""

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from pure import Denoiser
from pure.checks import check_argument, cut
from pure.checks import shown as quoted
from pure.models.checkpoint.description import READERS, describe
from pure.models.checkpoint.encoders import read_part
from pure.models.checkpoint.files import shown, variants_of, weight_files
from pure.models.checkpoint.hub import DESCRIPTION, EVERYTHING, locate
from pure.models.checkpoint.misfit import check_groups, check_numbers, check_weights
from pure.models.checkpoint.quiet import quietly
from pure.models.checkpoint.weights import DTYPES, Cuts, Stored, read_weights, survey
from pure.models.common.config import parameter_shapes
from pure.models.errors import CheckpointError
from pure.models.family import Description, Parts
from pure.models.pipeline import Pipeline
from pure.noise import check_device
from pure.sharding import divisible

# Processors of texts and pictures of which only the tokenizer is read; the rest would need torchvision.
TOKENIZER_OF = {"PixtralProcessor": "AutoTokenizer"}
WHOLE = (0, 1)  # the only rank of one
ENCODERS = "text_encoder"  # what the names of components begin with that ranks share
LINES = 6  # of an error of a library that are repeated


@attrs.frozen(kw_only=True)
class LoadOptions:
    """What `load_pipeline` takes besides the source, checked; its attributes are described there."""

    variant: str | None = None
    dtype: torch.dtype | None = torch.float32
    device: str | torch.device = "cpu"
    part: tuple[int, int] = WHOLE
    encoder_part: tuple[int, int] = WHOLE

    def __attrs_post_init__(self) -> None:
        check_argument(self.dtype, (torch.dtype, type(None)), "dtype is a torch.dtype such as torch.bfloat16, or None")
        check_argument(self.variant, (str, type(None)), "variant is the name of one, such as 'fp16', or None")
        check_device(self.device)
        _check_part(self.part, "part")
        _check_part(self.encoder_part, "encoder_part")


def load_pipeline(
    source: str | os.PathLike[str],
    *,
    variant: str | None = None,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
    part: tuple[int, int] = WHOLE,
    encoder_part: tuple[int, int] = WHOLE,
) -> Pipeline:
    """Load a checkpoint of any family in `pure.models.registry`.

    The transformer's tensors go straight into a dict; tokenizers, text encoders and VAE are
    those of transformers and diffusers. Everything is checked before anything is loaded.

    Args:
        source: a folder as diffusers' `save_pretrained` writes it, or a hub id.
        variant: "fp16", "bf16", ...: files of which name are read, where a component has them; None: the files
            without a variant, or the only variant there is.
        dtype: of all parts; None keeps what is stored, of the VAE and the encoders each the type of most tensors.
        device: of all parts.
        part: (rank, ranks): of the transformer's weights only what this rank of tensor parallelism holds is read; see
            `pure.distributed.place_parts`.
        encoder_part: the same of the text encoders, which all ranks that work on the same samples may share; see
            `pure.distributed.tensor_parallel_module`. Those that cannot be read so are whole.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or not supported.
        TypeError: an argument has another type.
        ValueError: there is no such device or part, or the model cannot be split so.

    >>> from pure.models import embedded
    >>> pipeline = load_pipeline(embedded())
    >>> pipeline.generate("a red apple", steps=2, max_sequence_length=16).pixels.shape
    torch.Size([1, 3, 64, 64])
    """
    check_argument(source, (str, os.PathLike), "source is a folder or a hub id")
    options = LoadOptions(variant=variant, dtype=dtype, device=device, part=part, encoder_part=encoder_part)
    return load(describe(locate(source, DESCRIPTION)), source, options)


def load(found: Description, source: str | os.PathLike[str], options: LoadOptions) -> Pipeline:
    """Load a checkpoint that was described, which it is before gigabytes are downloaded; see `load_pipeline`."""
    folder = locate(source, EVERYTHING)
    with quietly():
        return _load(found if folder == found.folder else describe(folder), options)


def _load(found: Description, options: LoadOptions) -> Pipeline:
    folder, family, variant = found.folder, found.family, options.variant
    cuts = {name: _cuts(denoiser, options.part) for name, denoiser in found.denoisers.items()}
    present = [name for name in found.kind.components if found.classes[name] != "None"]
    _check_variant(found, variant, [*found.transformers, *(name for name in present if not _reads(name))])
    weights = {name: _read(survey(folder / name, variant), family.unread) for name in found.transformers}
    for name, stored in weights.items():
        check_numbers(folder / name, stored)
        check_weights(folder / name, stored, parameter_shapes(found.transformers[name]))
    contents = {name: survey(folder / name, variant) for name in present if not _reads(name)}
    for name, stored in contents.items():
        check_numbers(folder / name, stored)
    components = {
        name: _reader(found, name) if _reads(name) else _model(found, name, contents[name], options) for name in present
    }
    kept: Any = {"dtype": options.dtype, "device": options.device, "keep_fp32": family.keep_fp32}
    params = {name: read_weights(stored, **kept, cuts=cuts[name]) for name, stored in weights.items()}
    absent = dict.fromkeys(found.kind.components)
    return found.kind.build(Parts(found=found, params=params, components={**absent, **components}))


def _read(stored: dict[str, Stored], unread: tuple[str, ...]) -> dict[str, Stored]:
    """Leave out what no model reads."""
    return {name: tensor for name, tensor in stored.items() if not any(part in name for part in unread)}


def _check_part(part: object, name: str) -> None:
    """Refuse what is no rank of so many."""
    check_argument(part, tuple, f"{name} is (rank, ranks), such as (0, 2)")
    numbers = isinstance(part, tuple) and len(part) == 2 and all(type(number) is int for number in part)
    if not numbers or not 0 <= part[0] < part[1]:  # type: ignore
        raise ValueError(f"{name}={quoted(part)}: give (rank, ranks), the rank from 0 to ranks - 1")


def _cuts(denoiser: Denoiser, part: tuple[int, int]) -> Cuts | None:
    """Return what a rank reads of each of a denoiser's parameters; None: all of all.

    Raises:
        ValueError: it cannot be split over so many.
    """
    rank, ranks = part
    if ranks == 1:
        return None
    sharding = divisible(denoiser.sharding, ranks)
    return lambda name: sharding.cut(name, rank, ranks)


def _reads(component: str) -> bool:
    """Whether a component reads texts and pictures, and has no weights."""
    return component.startswith(READERS)


def _dtype(stored: Mapping[str, Stored]) -> torch.dtype:
    names = [tensor.dtype for tensor in stored.values()]
    return DTYPES[max(names, key=names.count)]


def _check_variant(found: Description, variant: str | None, components: Sequence[str]) -> None:
    """Refuse a variant that no component has."""
    there = {each for name in components for each in variants_of(found.folder / name)}
    if variant is not None and variant not in there and there:
        raise CheckpointError(f"{found.folder} has no weights of the variant {variant!r}; it has {shown(there)}")


def _model(found: Description, component: str, stored: Mapping[str, Stored], options: LoadOptions) -> Any:
    """Load a model of a library, and refuse one that is not whole: it would be filled up with random numbers."""
    folder, name = found.folder / component, found.classes[component]
    cls, dtype, device = _class(found, component, name), options.dtype or _dtype(stored), options.device
    share = options.encoder_part if component.startswith(ENCODERS) else WHOLE
    try:
        part = read_part(cls, folder, stored, dtype=dtype, device=device, share=share)
        if part is not None:
            return part
        # Modules may be initialised at random on the way; the caller's random state stays as it was.
        with torch.random.fork_rng(devices=[]):
            model, report = cls.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                variant=weight_files(folder, options.variant).variant,
                dtype=dtype,
            )
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as {name}: {_cause(error)}") from error
    missing, other = (list(map(str, report[name])) for name in ("missing_keys", "mismatched_keys"))
    check_groups(folder, {"missing": missing, "of another shape": other}, stored, missing)
    return model.to(device).eval().requires_grad_(False)  # or every decoded picture would keep what a gradient needs


def _reader(found: Description, component: str) -> Any:
    """Load a tokenizer or a processor."""
    folder, name = found.folder / component, found.classes[component]
    name = TOKENIZER_OF.get(name, name)
    cls = _class(found, component, name)
    try:
        reader = cls.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as {name}: {_cause(error)}; is it complete?") from error
    # Without any of these files a tokenizer is made that knows no words, and says nothing.
    files = getattr(getattr(reader, "tokenizer", reader), "vocab_files_names", {}).values()
    if files and not any((folder / file).is_file() for file in files):
        raise CheckpointError(f"{folder} holds no vocabulary ({', '.join(files)}); download it again")
    return reader


def _class(found: Description, component: str, name: str) -> Any:
    library = importlib.import_module(found.libraries[component])
    cls = getattr(library, name, None)
    if cls is None:
        raise CheckpointError(
            f"{found.folder / component} needs {name}, which {library.__name__} {library.__version__} does not have; "
            "install a later version"
        )
    return cls


def _cause(error: BaseException) -> str:
    """Return what an error of a library says, in a few lines, and what it came from."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = cut(" ".join(said[:LINES]) + (" ..." if len(said) > LINES else ""), 300)
    before = error.__cause__ or error.__context__
    return f"{text} (because of: {_cause(before)})" if before is not None and str(before) not in text else text
