"""docs/adding-a-family.md: the files on the page are a family, of at most 150 lines, on which everything works."""

import functools
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import pure
from pure.cli.models import rows
from pure.models import CheckpointError, load_pipeline, register, registry
from pure.models.common.config import parameter_shapes
from pure.models.common.image import positions
from pure.models.common.streams import Conditioning
from pure.testing import toys
from pure.testing.answers import closed_form_holds
from pure.testing.laws import LAWS
from pure.testing.situation import Model
from pure.transforms import dbcache
from tests.laws.laws import Case, speaks_of
from tests.laws.test_laws import ONCE, hold
from tests.support import small as support
from tests.support.adder import drawn
from tests.support.exact import run, shapes

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding-a-family.md"
FILES = dict(re.findall(r"^```python (\w+\.py)\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL))
MOST = 150  # lines


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Any:
    """The family as the page has it, written to files, imported and registered; all undone afterwards."""
    folder = tmp_path_factory.mktemp("family")
    (folder / "small").mkdir()
    for name, text in FILES.items():
        (folder / "small" / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(registry, "_REGISTERED", {})
        found = importlib.import_module("small.pipeline").FAMILY
        register(found)
        yield found
        for name in [name for name in sys.modules if name.split(".")[0] == "small"]:
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def checkpoint(family, tmp_path_factory) -> tuple[Path, support.SmallTransformer2DModel]:
    """A folder with a whole checkpoint, and its transformer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder, support.save(folder)


def inputs(batch: int, text: int, rows: int, columns: int, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """Conditioning, latents and timesteps."""
    draw = functools.partial(toys.normal, seed=7)
    words = draw(batch, text, support.CONFIG["joint_attention_dim"]).to(dtype)
    conditioning = Conditioning(text=words, ids=pure.Shared(value=positions(text, rows, columns)))
    latents = draw(batch, rows * columns, support.CONFIG["in_channels"]).to(dtype)
    return conditioning, latents, torch.linspace(0.9, 0.1, batch + 2)[1:-1].to(dtype)


def test_the_page_has_all_files_and_few_lines():
    assert list(FILES) == ["config.py", "denoiser.py", "pipeline.py"]
    assert sum(len(text.splitlines()) for text in FILES.values()) <= MOST
    assert max(len(line) for text in FILES.values() for line in text.splitlines()) <= 120


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("batch", "text", "rows", "columns"), [(1, 8, 4, 4), (3, 1, 2, 5)])
def test_predictions_are_equal_bit_for_bit(family, dtype, batch, text, rows, columns):
    model = support.transformer().to(dtype)
    conditioning, latents, timestep = inputs(batch, text, rows, columns, dtype)
    ours = run(family.denoiser(model.config), model, conditioning, latents, timestep)[0]
    with torch.no_grad():
        assert torch.equal(ours, model(latents, conditioning.text, timestep, conditioning.ids.value))


@pytest.mark.parametrize("changes", [{}, {"out_channels": 12}, {"num_layers": 0}], ids=str)
def test_names_and_shapes_are_those_of_the_class(family, changes):
    model = support.transformer(**changes)
    assert parameter_shapes(family.config.read(model.config)) == shapes(model)


def test_every_placement_places_something(family):
    config = family.config()
    names = {name.rpartition(".")[0] for name in parameter_shapes(config)}
    sharding = family.denoiser(config).sharding
    assert {sharding.find(name) for name in names} - {None} == set(sharding.placements)


def model_of(family: Any) -> Model:
    """A model for the laws."""
    config = family.config.read({**support.CONFIG, "num_layers": 4})
    text = toys.rows((3, support.CONFIG["joint_attention_dim"]), 1000)
    ids = pure.Shared(value=positions(3, 2, 2))
    return Model(
        name="small",
        denoiser=family.denoiser(config),
        params=drawn(config, 0.05),
        conditioning=lambda seeds: Conditioning(text=text(seeds), ids=ids),
        latents=toys.rows((4, support.CONFIG["in_channels"]), 3000),
    )


@pytest.mark.parametrize("law", [name for name, law in LAWS.items() if law is not closed_form_holds])
def test_the_laws_hold(family, law):
    case = Case(name="small-everything", model=model_of(family), recipe="everything", quick=True)
    assert speaks_of(LAWS[law], case)
    hold(LAWS[law], case, ONCE)


def test_a_checkpoint_makes_the_picture_that_the_class_makes(family, checkpoint):
    folder, model = checkpoint
    pipeline = load_pipeline(folder)
    options: dict[str, Any] = {"steps": 4, "height": 16, "width": 20, "guidance_scale": 1.0, "max_sequence_length": 64}
    made = pipeline.generate("a red apple", seed=3, **options)
    request = pipeline.request("a red apple", **options)
    conditioning: Any = pipeline.encode(request)
    latents = pipeline.noise(request, 3)
    for step in pipeline.schedule(request):
        with torch.no_grad():
            prediction = model(latents, conditioning.text, step.times(1), conditioning.ids.value)
        latents = pipeline.solver.step(latents, prediction, step)
    # Not to the last bit: tensors read from a file lie otherwise in memory, which decides how products are summed.
    torch.testing.assert_close(made.latents, latents, atol=1e-5, rtol=0)
    assert made.pixels.shape == (1, 3, 16, 20)


def test_steps_are_skipped_and_guidance_is_a_second_branch(family, checkpoint):
    pipeline = load_pipeline(checkpoint[0])
    cached = pipeline.generate(
        "a red apple", transform=dbcache(front=1, threshold=0.99, warmup=1), steps=6, height=16, width=16,
        max_sequence_length=64,
    )  # fmt: skip
    computed = [info.computed for info in cached.infos]
    assert all(len(each) == 2 for each in computed) and not all(map(all, computed))


def test_the_family_is_listed(family):
    row = next(row for row in rows() if row["family"] == "Small")
    assert (row["pipeline"], row["transformer"]) == ("SmallPipeline", "SmallTransformer2DModel")
    assert row["cache"] == row["context parallel"] == row["tensor parallel"] == "yes"


def test_a_checkpoint_that_does_not_fit_is_refused(family, checkpoint, tmp_path):
    wide = support.transformer(joint_attention_dim=24)
    support.save(tmp_path)
    wide.save_pretrained(tmp_path / "transformer")
    with pytest.raises(CheckpointError, match="is 16 wide and the transformer's joint_attention_dim is 24"):
        load_pipeline(tmp_path)


def test_names_of_other_families_are_refused(family):
    with pytest.raises(ValueError, match=r"FLUX\.1 is a family of this package; register yours under another name"):
        register(attrs.evolve(family, name="FLUX.1"))
    taken = attrs.evolve(family.kinds[0], pipeline="FluxPipeline")
    with pytest.raises(ValueError, match=r"FluxPipeline belongs to FLUX\.1; name another pipeline class"):
        register(attrs.evolve(family, kinds=(taken,)))
    with pytest.raises(ValueError, match="SmallPipeline belongs to Small; name another pipeline class"):
        register(attrs.evolve(family, name="Smaller"))
    register(family)  # once more: a notebook's cell that runs again
    assert [each.name for each in registry.families()].count("Small") == 1
