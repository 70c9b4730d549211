"""Copies of a module's structure that share its parameters and nothing that is written.

A copy has the classes, settings, hooks and parameters of the original; the dicts that
register parameters and submodules are its own, so that it can be given other parameters and
forwards without the original noticing. Every call makes its own copy: that costs a third of
`torch.func.functional_call`, and two threads never meet in one module.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from pure.block import Params
from pure.models.errors import CheckpointError

CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def copied(
    module: nn.Module, params: Params | None = None, forwards: Mapping[str, Callable] | None = None
) -> nn.Module:
    """Copy the structure of a module.

    Args:
        module: left as it is.
        params: parameters and buffers by dotted name that the copy has in place of the module's.
        forwards: for submodules, by dotted name, what their copy calls instead of their
            forward; nothing below them is copied.
    """
    return _copied(module, "", params or {}, forwards or {}, {})


def _copied(
    module: nn.Module, path: str, params: Params, forwards: Mapping[str, Callable], known: dict[int, nn.Module]
) -> nn.Module:
    if id(module) in known:  # a module under two names stays one
        return known[id(module)]
    made = object.__new__(type(module))
    fields = dict(vars(module))
    prefix = f"{path}." if path else ""
    for kind in ("_parameters", "_buffers"):
        fields[kind] = {name: params.get(prefix + name, tensor) for name, tensor in fields[kind].items()}
    fields["_modules"] = dict(fields["_modules"])
    known[id(module)] = made
    fields.pop("forward", None)  # that of the class, bound to the original (see check_unpatched)
    if path in forwards:
        fields["forward"] = forwards[path]
        # Hooks belong to the module that really runs, which is another one.
        fields |= {name: {} for name in HOOKS if name in fields}
    else:
        for name, child in module._modules.items():
            if child is not None:
                fields["_modules"][name] = _copied(child, prefix + name, params, forwards, known)
    vars(made).update(fields)
    return made


HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers by name, those that no checkpoint holds too."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return named | dict(module.named_buffers(remove_duplicate=False))


def units(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield what a module's forward calls: its children, those in lists and dicts one by one."""
    for name, child in module.named_children():
        if isinstance(child, CONTAINERS):
            yield from units(child, f"{path}{name}.")
        else:
            yield f"{path}{name}", child


def lists(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield the outermost lists of modules, wherever they are."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield f"{path}{name}", child
        else:
            yield from lists(child, f"{path}{name}.")


def check_unpatched(module: nn.Module) -> None:
    """Refuse modules whose forward is not that of their class: a copy would run the original behind it.

    Raises:
        CheckpointError: naming the submodule and what helps.
    """
    for name, child in module.named_modules():
        full = f"{type(module).__name__}{'.' + name if name else ''}"
        own = vars(child).get("forward", type(child).forward)
        if "_orig_mod" in child._modules or child._compiled_call_impl is not None or hasattr(own, COMPILED):
            raise CheckpointError(
                f"{full} is compiled{' as a whole' if child is module else ''}, so its blocks cannot run one by one; "
                "give the pipeline the module as it was before compile(), compile_repeated_blocks() or torch.compile, "
                "and compile the pieces between which steps are skipped: "
                "accelerate(pipe, compose(dbcache(), compiled()))"
            )
        # accelerate's model offloading only moves the module, and our callers call its hook
        offloaded = child is module and hasattr(child, "_hf_hook")
        if getattr(own, "__func__", own) is not type(child).forward and not offloaded:
            raise CheckpointError(
                f"the forward of {full} has been replaced "
                f"({getattr(vars(child)['forward'], '__qualname__', vars(child)['forward'])}); take the hooks off "
                "first (disable_cache(), no sequential or group offloading, no layerwise casting)"
            )
    hooks = [name for name in HOOKS[:2] if vars(module)[name]]
    if hooks:
        raise CheckpointError(
            f"{type(module).__name__} has {' and '.join(hooks)} of its own, which would see it run in pieces; "
            "remove them (hooks on what is inside it may stay)"
        )


COMPILED = "_torchdynamo_orig_callable"  # what torch.compile leaves on a function
PLAIN = (bool, int, float, str, type(None))
OWN = frozenset(vars(nn.Module())) - {"training"}  # what torch keeps in every module


def fingerprint(module: nn.Module) -> tuple:
    """Return what a module is made of, to notice changes: two milliseconds for a thousand submodules.

    Modules and tensors by identity, tensors with dtype, device and shape, settings by value. The values of
    tensors take no part: pieces of an adapted model read them when they run.
    """
    found: list[Any] = []
    for child in module.modules():
        own = vars(child)
        found.append(id(child))
        for tensor in (*own["_parameters"].values(), *own["_buffers"].values()):
            if tensor is not None:
                found.append((id(tensor), tensor.dtype, tensor.device, tensor.shape))
        found += [(key, _setting(value)) for key, value in own.items() if key not in OWN]
    return tuple(found)


def _setting(value: Any) -> Any:
    """Return a setting by value, and what is no setting by its kind."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, dict):
        return tuple((key, entry if type(entry) in PLAIN else type(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return tuple(entry if type(entry) in PLAIN else type(entry) for entry in value)
    # A tensor that a module fills at its first call is no change; another attention processor is one.
    return type(value) if isinstance(value, torch.Tensor) else id(value)


def described(module: nn.Module) -> tuple:
    """Return what two modules must have in common to be the same function of their parameters."""
    own = {key: value for key, value in vars(module).items() if key not in ("_parameters", "_buffers", "_modules")}
    tensors = {**module._parameters, **module._buffers}
    shapes = tuple((name, None if t is None else (tuple(t.shape), t.dtype)) for name, t in tensors.items())
    settings = tuple((key, _frozen(value)) for key, value in sorted(own.items()))
    children = tuple((n, None if c is None else described(c)) for n, c in module._modules.items())
    return type(module), shapes, settings, children


def _frozen(value: Any) -> Any:
    """Return something hashable that is equal for equal settings, and for nothing else."""
    if isinstance(value, Mapping):
        return type(value), tuple((key, _frozen(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(_frozen(entry) for entry in value)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(value)
    if isinstance(value, str | int | float | bool | torch.dtype | torch.device | type | None):
        return value
    if isinstance(value, functools.partial) or (callable(value) and not hasattr(value, "__dict__")):
        return id(value)
    own = getattr(value, "__dict__", None)
    if own is not None and not isinstance(value, nn.Module | torch.Tensor) and not hasattr(value, "__code__"):
        return type(value), tuple((key, _frozen(entry)) for key, entry in sorted(own.items()))
    return id(value)


@attrs.frozen
class ModuleFunction:
    """A module as a pure function of its parameters; equal if it is the same function."""

    module: nn.Module = attrs.field(eq=described)

    def __call__(self, params: Params, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Call the module with these parameters."""
        if torch.compiler.is_compiling():  # what dynamo can trace
            return torch.func.functional_call(self.module, dict(params), args, dict(kwargs))
        return copied(self.module, params)(*args, **kwargs)
