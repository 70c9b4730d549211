"""Of every family: what a request sets and the model does not read is said; sizes are known before loading."""

import pytest

from pure.engine.errors import Misuse
from pure.models.request import SCALES

READ = {
    "embedded": {"true_cfg_scale"},
    "flux": {"guidance_scale", "true_cfg_scale"},
    "klein": {"guidance_scale"},
    "qwen": {"true_cfg_scale"},
    "z-image": {"guidance_scale"},
    "wan": {"guidance_scale"},
    "wan-experts": {"guidance_scale", "guidance_scale_2"},
    "hunyuan": {"guidance_scale", "true_cfg_scale"},
}
"""The scales that a model reads; the one in the package embeds no guidance."""


@pytest.mark.parametrize("name", READ)
def test_a_scale_is_read_or_said_to_have_no_effect(here, name):
    opened = here(name, start=False)
    for option in SCALES:
        call = {"negative_prompt": "b", "options": {"steps": 2, option: 2.5}}
        if option == "guidance_scale_2" and option not in READ[name]:
            with pytest.raises(Misuse, match="guidance_scale_2 is for the second expert of a model"):
                opened.recipe(**call)
            with pytest.raises(ValueError, match=r"guidance_scale_2=2.5 is that of a second expert"):
                opened.service.engine.pipeline.request("a cat", guidance_scale_2=2.5)
            continue
        said = [
            note.text for note in opened.recipe(**call).notes if note.text.startswith(f"{option}=2.5 has no effect")
        ]
        assert len(said) == (option not in READ[name]), option


def test_the_scale_of_a_second_expert_without_guidance_is_said_to_have_no_effect(here):
    options = {"steps": 2, "guidance_scale": 1.0, "guidance_scale_2": 4.0}
    notes = here("wan-experts", start=False).recipe(options=options).notes
    assert notes[0].text == "guidance_scale_2=4.0 has no effect: guidance_scale is at most 1, which switches both off"


def test_a_size_or_length_that_another_field_overrides_is_said(here):
    opened = here("wan")
    body = {"num_inference_steps": 1, "size": "32x32", "num_frames": 5, "max_sequence_length": 8}
    id = opened.post("/v1/videos", **body, width=64, seconds=9)["id"]
    notes = [note.text for note in opened.worker.jobs.get(id, "video").job.recipe.notes]
    assert "size=32x32 has no effect where width or height is given" in notes
    assert "seconds=9 has no effect: num_frames=5 is given" in notes
    id = opened.post("/v1/videos", **body, width=32)["id"]
    assert not [note for note in opened.worker.jobs.get(id, "video").job.recipe.notes if "given" in note.text]


@pytest.mark.parametrize("name", READ)
def test_sizes_are_known_from_the_files_of_a_checkpoint(loaded, name):
    pipeline, found = loaded(name)
    sizes, one = found.sizes, {"height": 64, "width": 64}
    for side in ("height", "width"):
        step = getattr(sizes, side)
        assert pipeline.request("a", **{**one, side: 2 * step}).images_per_prompt == 1
        for wrong in {2 * step - 1, step + 1, max(step // 2, 1)}:
            reason = sizes.wrong(side, wrong)
            with pytest.raises(ValueError) as raised:
                pipeline.request("a", **{**one, side: wrong})
            assert str(raised.value) == f"{side}={wrong} {reason}"
    if found.kind.task.endswith("video"):
        assert sizes.wrong("frames", sizes.first + sizes.frames) is None
        with pytest.raises(ValueError, match=r"frames=6 is not 1 plus a multiple of 4; the nearest number is 5"):
            pipeline.request("a", **one, frames=6)
        assert sizes.wrong("frames", 6) == "is not 1 plus a multiple of 4; the nearest number is 5"
