"""The commands on a GPU: the same picture as on the processor, whatever is asked for."""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_rows import Check, decibels

__all__ = ["commands"]

ROOT = Path(__file__).resolve().parents[1]
PROMPT = ["--prompt", "a red apple on a blue background", "--seed", "1"]
STEPS = ["--num-inference-steps", "28"]
FP32, FP16, BF16 = (["--dit-precision", name] for name in ("fp32", "fp16", "bf16"))
TUNED, TAYLOR = ["--plan", "fast"], ["--cache-dit-params", '{"enable_taylorseer": true}']
CACHED = ["--cache-dit-params", '{"scm_preset": "fast", "scm_policy": "static"}']
LIMIT = 240  # seconds that a command may take
# What the GPU is asked for, what the processor is, and how many decibels are between them at least: rounding to 8 bits
# leaves about 60, half precision and float8 what they do. Both draw the same noise, which depends on the precision.
GENERATE: dict[str, tuple[list[str], list[str], float]] = {
    "fp32": (FP32, FP32, 50),
    "as stored": ([], FP16, 30),
    "fp16": (FP16, FP16, 30),
    "bf16": (BF16, BF16, 25),
    "fp32, cached": ([*FP32, *CACHED], [*FP32, *CACHED], 50),
    "fp32, tuned plan": ([*FP32, *TUNED], [*FP32, *TUNED], 50),
    "fp32, TaylorSeer": ([*FP32, *TAYLOR], [*FP32, *TAYLOR], 50),
    "fp32, compiled": ([*FP32, *CACHED, "--enable-torch-compile"], [*FP32, *CACHED], 50),
    "bf16, cuDNN": ([*BF16, "--attention-backend", "_native_cudnn"], BF16, 25),
    "bf16, flash": ([*BF16, "--attention-backend", "_native_flash"], BF16, 25),
    "bf16, flex": ([*BF16, "--attention-backend", "flex"], BF16, 25),
    "bf16, quantised": ([*BF16, "--cache-dit-config", "configs/quantize.yaml"], BF16, 20),
}


def _run(words: list[str], device: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run puredit, on the GPU or as if there were none."""
    hidden = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", **hidden, **more}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)


def _puredit(*words: str) -> list[str]:
    return [sys.executable, "-m", "pure", *words]


def _pixels(source: Path | bytes) -> torch.Tensor:
    """Return a picture (H, W, 3) in 0 to 1."""
    with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"exit code {done.returncode}: {lines[-1][:160] if lines else ''}"


def _generated(words: list[str], device: str, file: Path) -> torch.Tensor | str:
    """Return the picture of `puredit generate`, or what went wrong."""
    done = _run(_puredit("generate", *PROMPT, *STEPS, *words, "--output-file-path", str(file)), device)
    return _pixels(file) if done.returncode == 0 and file.exists() else _last(done)


def _compared(made: torch.Tensor | str, expected: torch.Tensor | str) -> float | str:
    if isinstance(made, str) or isinstance(expected, str):
        return made if isinstance(made, str) else f"the processor's: {expected}"
    return decibels(made, expected)


def commands(device: str) -> Iterator[Check]:
    """Run generate, serve and export side by side, each a process of its own."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(7) as pool:
        folder = Path(name)
        exported, served = pool.submit(_exported, device, folder), pool.submit(_served, device, folder)

        def submitted(words: list[str], where: str, number: int) -> Future[torch.Tensor | str]:
            return pool.submit(_generated, words, where, folder / f"{where}-{number}.png")

        wanted = {tuple(words): number for number, (_, words, _) in enumerate(GENERATE.values())}
        there = {words: submitted(list(words), "cpu", number) for words, number in wanted.items()}
        here = {kind: submitted(words, device, i) for i, (kind, (words, _, _)) in enumerate(GENERATE.items())}
        for kind, (_, words, bound) in GENERATE.items():
            found = _compared(here[kind].result(), there[tuple(words)].result())
            yield Check("puredit generate, decibels", kind, found, bound)
        plain = there[tuple(FP32)].result()
        yield Check("puredit serve, decibels", "fp32", _compared(served.result(), plain), 50.0)
        yield Check("puredit export, decibels", "fp32, decoder", _compared(exported.result(), plain), 50.0)


def _served(device: str, folder: Path) -> torch.Tensor | str:
    """Return the picture that the server sends, or what went wrong."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = _puredit(
        "serve", *FP32, "--host", "127.0.0.1", "--port", str(port), "--output-path", str(folder / "served")
    )
    log = folder / "serve.log"
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
        **({} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}),
    }
    with log.open("w") as out, subprocess.Popen(words, cwd=ROOT, env=environment, stdout=out, stderr=out) as server:
        try:
            address, end = f"http://127.0.0.1:{port}", time.monotonic() + LIMIT
            while not _ready(address) and server.poll() is None and time.monotonic() < end:
                time.sleep(0.5)
            asked = {"prompt": PROMPT[1], "seed": 1, "num_inference_steps": 28, "response_format": "b64_json"}
            request = urllib.request.Request(
                f"{address}/v1/images/generations",
                data=json.dumps(asked).encode(),
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                return _pixels(base64.b64decode(json.load(answer)["data"][0]["b64_json"]))
        except Exception as error:
            return f"{error}; {' '.join(log.read_text().split())[-160:]}"
        finally:
            server.terminate()


def _ready(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
        return answer.status == 200
    return False


def _exported(device: str, folder: Path) -> torch.Tensor | str:
    """Return the picture of an exported run that torch alone carries out, or what went wrong."""
    words = ["export", *PROMPT, *STEPS, *FP32, "--decoder", "--output", str(folder / "run.pt2")]
    done = _run(_puredit(*words), device)
    if done.returncode:
        return _last(done)
    script = [
        str(ROOT / "examples" / "run_exported.py"),
        *(str(folder / f"run{end}") for end in (".json", "-start.safetensors")),
    ]
    done = _run([sys.executable, *script, str(folder / "latents.safetensors")], device)
    return _pixels(folder / "latents-0.png") if done.returncode == 0 else _last(done)
