"""A model in one piece: all or nothing, said beforehand."""

import attrs
import pytest
import torch
from diffusers import UNet2DConditionModel

import pure
from pure.models.adapt.whole import whole
from pure.transforms import dbcache, scm, taylorseer
from tests.support.generic import Draw


def unet(**changes) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (4, 8),
            "norm_num_groups": 2,
            "layers_per_block": 1,
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
        }
        return UNet2DConditionModel(**{**config, **changes}).eval().requires_grad_(False)


@attrs.frozen(eq=False)
class Calls:
    """A U-Net as a function, with a count of the samples it has seen."""

    model: UNet2DConditionModel
    samples: list[int] = attrs.field(factory=list)

    def __call__(self, latents, timestep, conditioning):
        self.samples.append(len(latents))
        return self.model(latents, timestep, encoder_hidden_states=conditioning).sample


def run(denoiser, latents, conditioning, count=6):
    state, found = denoiser.init({}, conditioning, latents, count), []
    for index in range(count):
        step = pure.Step(index=index, count=count, timestep=torch.tensor(900.0 - 100 * index))
        prediction, state, info = denoiser.apply({}, state, pure.Inputs(latents + 0.1 * index, step))
        found.append((prediction, info))
    return found


DRAW = Draw(0)
LATENTS, TEXT = DRAW(2, 4, 8, 8), DRAW(2, 5, 8)


def test_a_unet_without_a_cache_is_the_unet_bit_for_bit():
    model = unet()
    for index, (prediction, info) in enumerate(run(whole(Calls(model)), LATENTS, TEXT)):
        time = torch.tensor(900.0 - 100 * index)
        assert torch.equal(prediction, model(LATENTS + 0.1 * index, time, encoder_hidden_states=TEXT).sample)
        assert info.blocks == 2


def test_a_static_mask_repeats_predictions():
    function = Calls(unet())
    steps = run(scm(mask="110100", policy="static")(whole(function)), LATENTS, TEXT)
    assert [info.computed[0] for _, info in steps] == [True, True, False, True, False, False]
    assert sum(info.blocks for _, info in steps) == sum(function.samples) == 6
    for skipped, source in ((2, 1), (4, 3), (5, 3)):
        assert torch.equal(steps[skipped][0], steps[source][0])


@pytest.mark.parametrize("on", ["residual", "hidden"])
def test_taylorseer_extrapolates_predictions(on):
    denoiser = pure.compose(scm(mask="11111100", policy="static"), taylorseer(order=1, on=on))(
        whole(lambda latents, timestep, conditioning: latents * 0 + timestep.view(-1, 1, 1, 1))
    )
    steps = run(denoiser, LATENTS, None, count=8)
    for index, (prediction, _) in enumerate(steps):  # linear in the timestep: extrapolated exactly
        torch.testing.assert_close(prediction, torch.full_like(prediction, 900.0 - 100 * index), rtol=0, atol=1e-3)


def test_samples_decide_alone():
    function = Calls(unet())
    denoiser = dbcache(front=0, threshold=1.0, warmup=1, max_continuous=1)(whole(function))
    states = []
    for row in range(2):
        part = pure.take((LATENTS, TEXT), torch.tensor([row]))
        state = denoiser.init({}, part[1], part[0], 4)
        for index in range(1 + row):
            step = pure.Step(index=index, count=4, timestep=torch.tensor(500.0))
            _, state, _ = denoiser.apply({}, state, pure.Inputs(part[0], step))
        states.append(state)
    function.samples.clear()
    step = pure.Step(index=(1, 2), count=4, timestep=torch.tensor([400.0, 400.0]))
    _, _, info = denoiser.apply({}, pure.join(*states), pure.Inputs(LATENTS, step))
    assert info.computed == (False, True) and function.samples == [1]


def test_predictions_of_other_channels():
    model = unet(out_channels=8)
    found = run(whole(Calls(model), channels=8), LATENTS, TEXT, count=1)
    assert found[0][0].shape == (2, 8, 8, 8)
    with pytest.raises(ValueError, match=r"of shape \(2, 8, 8, 8\), and \(2, 4, 8, 8\) was expected; set whole"):
        run(whole(Calls(model)), LATENTS, TEXT, count=1)
    with pytest.raises(ValueError, match=r"of shape \(1, 4, 8, 8\), and \(2, 4, 8, 8\) was expected"):
        run(whole(lambda latents, timestep, conditioning: latents[:1]), LATENTS, TEXT, count=1)


@pytest.mark.parametrize("front", [0, 1])
def test_a_threshold_has_nothing_to_measure(front):
    with pytest.raises(ValueError, match=r"no front block whose change .* choose the steps with scm\(mask"):
        dbcache(front=front, threshold=0.2)(whole(Calls(unet())))
