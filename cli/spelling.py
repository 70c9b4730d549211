"""Flags that do not exist: what was meant."""

from collections.abc import Iterable

from pure.checks import nearest

__all__ = ["unknown"]

ELSEWHERE = {
    "--cache": "--cache-dit-config",
    "--cache-config": "--cache-dit-config",
    "--cfg": "--guidance-scale",
    "--cfg-scale": "--guidance-scale",
    "--checkpoint": "--model-path",
    "--ckpt": "--model-path",
    "--compile": "--enable-torch-compile",
    "--dtype": "--dit-precision",
    "--frames": "--num-frames",
    "--gpus": "--num-gpus",
    "--guidance": "--guidance-scale",
    "--h": "--height",
    "--image": "--image-path",
    "--model": "--model-path",
    "--model-id": "--model-path",
    "--negative": "--negative-prompt",
    "--num-images": "--num-outputs-per-prompt",
    "--num-images-per-prompt": "--num-outputs-per-prompt",
    "--num-samples": "--num-outputs-per-prompt",
    "--num-steps": "--num-inference-steps",
    "--out": "--output-path",
    "--output": "--output-path",
    "--output-dir": "--output-path",
    "--outdir": "--output-path",
    "--precision": "--dit-precision",
    "--pretrained-model-name-or-path": "--model-path",
    "--quiet": "--log-level",
    "--ring-size": "--ring-degree",
    "--sample-steps": "--num-inference-steps",
    "--save-path": "--output-path",
    "--sp-size": "--sp-degree",
    "--steps": "--num-inference-steps",
    "--torch-compile": "--enable-torch-compile",
    "--tp": "--tp-size",
    "--ulysses-size": "--ulysses-degree",
    "--verbose": "--log-level",
    "--w": "--width",
    "-m": "--model-path",
    "-n": "--num-outputs-per-prompt",
    "-o": "--output-path",
    "-p": "--prompt",
    "-q": "--log-level",
    "-s": "--seed",
    "-v": "--version",
}
"""What other programs call our flags."""


def unknown(name: str, flags: Iterable[str]) -> str:
    """Return the message for a flag that does not exist, with the nearest that does.

    >>> unknown("--steps", ["--num-inference-steps", "--warmup-steps"])
    'there is no flag --steps; did you mean --num-inference-steps?'
    """
    flags = set(flags)
    dashes = name.replace("_", "-")
    if dashes in flags:
        return f"there is no flag {name}; flags are written with dashes: {dashes}"
    elsewhere = ELSEWHERE.get(dashes)
    guess = elsewhere if elsewhere in flags else _similar(dashes, flags)
    return f"there is no flag {name}; " + (f"did you mean {guess}?" if guess else "--help lists the flags")


def _similar(name: str, flags: set[str]) -> str | None:
    # The dashes are common to all flags and say nothing about what was meant.
    bare = {flag.lstrip("-"): flag for flag in sorted(flags, key=len)}
    others = {other.lstrip("-"): flag for other, flag in ELSEWHERE.items() if flag in flags and other[:2] == "--"}
    found = nearest(name.lstrip("-"), {**others, **bare}) if len(name.lstrip("-")) > 1 else None
    return {**others, **bare}.get(found or "")
