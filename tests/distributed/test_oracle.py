"""The same division as diffusers', which runs on CPUs once it is told that there is one device a rank."""

import warnings

import pytest
import torch
from diffusers import ContextParallelConfig

from pure.distributed import Sizes, context_parallel, make_mesh
from pure.models.flux.denoiser import flux
from tests.support import exact, ranks, tiny


def both():
    """What diffusers and we predict at the same step, with tokens divided: evenly, as diffusers needs it on gloo."""
    model, layout = tiny.transformer(), Sizes(ulysses=torch.distributed.get_world_size())
    call = tiny.call(model, batch=2, text=8, rows=4, columns=6)
    ours = context_parallel(make_mesh(layout))(flux(model.config))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "device_count", lambda: 1)
        prediction, *_ = exact.run(ours, model, *tiny.inputs(call))
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=layout.ulysses))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # diffusers calls collectives by older names
            return exact.predicted(model, call), prediction


@pytest.mark.parametrize("count", [2, 4])
def test_diffusers_divides_to_the_same_prediction(count):
    for theirs, ours in ranks.run(both, count):
        assert (theirs - ours).abs().max() <= 1e-6
