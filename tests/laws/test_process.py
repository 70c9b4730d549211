"""Law 5 once more, with a process that has never seen the request."""

import os
import subprocess
import sys
from pathlib import Path

import pure
from pure.testing.situation import same
from tests.laws import resume

ROOT = Path(__file__).parent.parent.parent


def test_another_process_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    entries = resume.RUN.trace()
    assert any(not all(entry.info.computed) for entry in entries), "the run skips"
    entry = entries[resume.STOP]
    saved, answer = tmp_path / "saved.safetensors", tmp_path / "answer.safetensors"
    pure.save_state((entry.before, entry.latents), saved)
    command = [sys.executable, "-m", "tests.laws.resume", str(saved), str(answer)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    here = resume.rest(entry.before, entry.latents)
    assert same(pure.load_state(answer, like=here), here)
