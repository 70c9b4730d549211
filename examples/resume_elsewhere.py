"""Stop a run half-way, save it, and go on in another process, to the same bits.

python examples/resume_elsewhere.py first half.safetensors
python examples/resume_elsewhere.py second half.safetensors    # on another machine, a day later
"""

import sys

import torch

import pure
from pure.models import embedded, load_pipeline
from pure.transforms import dbcache, taylorseer

half, file = sys.argv[1:]
pipeline = load_pipeline(embedded())
denoiser = pure.compose(dbcache(front=1, warmup=2), taylorseer(order=1))(pipeline.denoiser)
request = pipeline.request("a red apple on a blue background", steps=12)
conditioning, noise, steps = pipeline.encode(request), pipeline.noise(request, seed=42), pipeline.schedule(request)

# All memory is in the state and in the solver's carry. Both are values: they can be saved, sent, compared.
beginning = denoiser.init(pipeline.params, conditioning, noise, steps), pipeline.solver.init(noise)
if half == "first":
    state, carry = beginning
    for frame in pure.unroll(denoiser, pipeline.params, state, carry, steps[:6], pipeline.solver):
        state, carry = frame.state, frame.carry
    pure.save_state((state, carry), file, origin=pure.origin_of(denoiser, pipeline.params, steps, step=6))
    print("saved after 6 of 12 steps:", file)
else:
    # A state of other weights, another plan or another schedule is refused.
    state, carry = pure.load_state(file, like=beginning, origin=pure.origin_of(denoiser, pipeline.params, steps))
    saved = pure.read_origin(file)
    assert saved is not None
    for frame in pure.unroll(denoiser, pipeline.params, state, carry, steps[saved.step :], pipeline.solver):
        carry = frame.carry
    whole = pure.sample(denoiser, pipeline.params, conditioning, noise, steps, pipeline.solver)
    assert torch.equal(pipeline.solver.latents(carry), whole.latents), "the same bits as without the stop"
    pipeline.decode(whole.latents, request)[0].save("resumed.png")
    print("saved resumed.png")
