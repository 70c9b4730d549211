"""What every rank holds under tensor parallelism: parts that make up the whole, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pure import Denoiser, Experts
from pure.distributed import Sizes, check_tensor_parallel, make_mesh, tensor_parallel
from pure.distributed.sharded_weight import ShardedWeight
from pure.distributed.tensor_parallel import part_of
from pure.models.common.config import parameter_shapes
from pure.models.flux.denoiser import flux
from pure.models.wan.config import WanConfig
from pure.sharding import Kind, Part, Placement, Sharding
from pure.testing import toys
from tests.support import ranks
from tests.support.split import CONFIGS, MODELS, meta

FAMILIES = list(CONFIGS)
OUTPUT = Sharding(4, (Placement("*.out", Kind.ROW, (Part(4, 2),)),))


def joined(parts: list[torch.Tensor], placement: Placement, dim: int) -> torch.Tensor:
    """Put together what ranks hold: of each part of the dimension what every rank has of it."""
    count = len(parts)
    widths = [
        [(part.count // count + (rank < part.count % count)) * part.width for part in placement.parts]
        for rank in range(count)
    ]
    pieces = [part.split(width, dim) for part, width in zip(parts, widths, strict=True)]
    return torch.cat([piece for of_part in zip(*pieces, strict=True) for piece in of_part], dim)


def together(sharding: Sharding, parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Put the parameters of all ranks together."""
    whole = {}
    for name, first in parts[0].items():
        placement = sharding.find(name)
        if placement is None or (placement.kind is Kind.ROW and name.endswith(".bias")):
            assert all(part[name] is first for part in parts)
            whole[name] = first
        else:
            dim = 1 if placement.kind is Kind.ROW else 0
            whole[name] = joined([part[name] for part in parts], placement, dim)
    return whole


@pytest.mark.parametrize("name", [name for name in MODELS if name != "wan-experts"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_parts_of_all_ranks_are_the_whole(name, count):
    model = MODELS[name]
    sharding = model.first.sharding
    assert sharding is not None
    parts = [part_of(model.params, sharding, rank, count) for rank in range(count)]
    whole = together(sharding, parts)
    assert list(whole) == list(model.params)
    assert all(torch.equal(tensor, model.params[name]) for name, tensor in whole.items())


@st.composite
def layers(draw) -> tuple[Sharding, dict[str, torch.Tensor], int]:
    """A layer of drawn parts, and how many ranks there are."""
    count = draw(st.integers(1, 5))
    parts = tuple(Part(draw(st.integers(count, 9)), draw(st.integers(1, 3))) for _ in range(draw(st.integers(1, 4))))
    kind = draw(st.sampled_from([Kind.COLUMN, Kind.ROW]))
    split, other = sum(part.features for part in parts), draw(st.integers(1, 4))
    shape = (other, split) if kind is Kind.ROW else (split, other)
    params = {"a.0.out.weight": toys.normal(*shape, seed=1), "a.0.out.bias": toys.normal(shape[0], seed=2)}
    return Sharding(9, (Placement("a.*.out", kind, parts),)), params, count


@given(layers())
def test_drawn_parts_are_the_whole(drawn):
    sharding, params, count = drawn
    whole = together(sharding, [part_of(params, sharding, rank, count) for rank in range(count)])
    assert all(torch.equal(tensor, params[name]) for name, tensor in whole.items())


@given(layers())
def test_products_of_parts_are_parts_of_the_product_or_add_up_to_it(drawn):
    sharding, params, count = drawn
    placement, weight = sharding.placements[0], params["a.0.out.weight"]
    x = toys.normal(2, weight.shape[1], seed=3)
    whole, parts = x @ weight.T, [part_of(params, sharding, r, count)["a.0.out.weight"] for r in range(count)]
    if placement.kind is Kind.COLUMN:
        found = joined([x @ part.T for part in parts], placement, 1)
    else:
        inputs = [part_of({"a.0.out.weight": x}, sharding, r, count)["a.0.out.weight"] for r in range(count)]
        found = sum(mine @ part.T for mine, part in zip(inputs, parts, strict=True))
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_rank_holds_little_more_than_its_share_of_the_blocks(family, count):
    """Of checkpoints of full size; what is on every rank are embeddings and small projections."""
    denoiser, params = family({}), meta(family)
    prefixes = tuple({block.prefix for block in denoiser.blocks})
    part = part_of(params, denoiser.sharding, 0, count)

    def numbers(tensors: dict[str, torch.Tensor]) -> int:
        return sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(prefixes))

    assert 1 / count <= numbers(part) / numbers(params) < 1 / count + 0.025


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_placement_places_something(family):
    names = {name.removesuffix(".weight").removesuffix(".bias") for name in meta(family)}
    sharding = family({}).sharding
    if family.__name__ == "wan":  # which may have keys and values of an image
        sharding_of_images = family({"image_dim": 8, "added_kv_proj_dim": 5120}).sharding
        assert sharding_of_images == sharding
        embeds = WanConfig.read({"image_dim": 8, "added_kv_proj_dim": 5120})
        names |= {name.removesuffix(".weight") for name in parameter_shapes(embeds)}
    found = {sharding.find(name + ".weight") for name in names}
    assert found - {None} == set(sharding.placements)


def test_parts_share_no_memory_with_the_whole():
    params = {"a.out.weight": torch.ones(2, 8), "a.other": torch.ones(3)}
    part = part_of(params, OUTPUT, 0, 2)
    assert part["a.out.weight"].untyped_storage().nbytes() == 2 * 4 * 4
    assert part["a.other"] is params["a.other"]


def test_other_parameters_are_refused():
    with pytest.raises(ValueError, match=r"no parameter is called \*\.out or otherwise as this sharding says; give"):
        part_of({"a.in.weight": torch.ones(2, 8)}, OUTPUT, 0, 2)
    with pytest.raises(ValueError, match=r"a\.out\.weight is \(2, 6\), and its placement splits 8 features of dim.* 1"):
        part_of({"a.out.weight": torch.ones(2, 6)}, OUTPUT, 0, 2)


def test_a_part_of_a_trained_parameter_asks_for_no_gradient():
    weight = torch.nn.Parameter(torch.arange(8.0).view(1, 8))
    part = part_of({"a.out.weight": weight}, OUTPUT, 1, 2)["a.out.weight"]
    assert not part.requires_grad and part.tolist() == weight[:, 4:].tolist()


def test_a_part_is_not_split_again():
    part = ShardedWeight(torch.ones(2, 4), Kind.ROW, 8, "0", 2)
    assert repr(part) == "ShardedWeight(row, (2, 4) of 8, 2 ranks)"
    with pytest.raises(ValueError, match=r"a\.out\.weight is a ShardedWeight, which cannot be split; split plain"):
        part_of({"a.out.weight": part}, OUTPUT, 0, 2)


def test_a_part_is_only_multiplied_with():
    part = ShardedWeight(torch.ones(2, 4), Kind.ROW, 8, "0", 2)
    with pytest.raises(NotImplementedError, match=r"aten\.mul.* cannot be done with a part of a weight.*local=\.\.\."):
        torch.mul(part, 2)


def test_a_denoiser_that_says_nothing_is_refused():
    denoiser = toys.random_denoiser()
    assert isinstance(denoiser, Denoiser)
    check_tensor_parallel(denoiser, 1)
    with pytest.raises(ValueError, match=r"does not say how its parameters are split .* 'tp' the size 1, or use"):
        check_tensor_parallel(denoiser, 2)


def test_more_ranks_than_heads_are_refused():
    denoiser = flux({})
    check_tensor_parallel(denoiser, 24)
    for ranks_ in (0, -1, True, 2.0):
        with pytest.raises(ValueError, match=f"ranks={ranks_}: give a number of ranks from 1 on"):
            check_tensor_parallel(denoiser, ranks_)  # type: ignore[arg-type]
    message = r"has 24 heads, fewer than the 25 ranks of axis 'tp', which need one each; give it the size 24 or less"
    with pytest.raises(ValueError, match=message):
        check_tensor_parallel(denoiser, 25)
    with pytest.raises(ValueError, match=message):
        check_tensor_parallel(Experts({"high": denoiser}), 25)


def _alone(name: str) -> bool:
    model, mesh = MODELS[name], make_mesh(Sizes())
    with pytest.raises(TypeError, match=r"params is a dict of tensors by name, such as pipeline\.params"):
        tensor_parallel(list(model.params), model.denoiser, mesh)  # type: ignore[arg-type]
    return tensor_parallel(model.params, model.denoiser, mesh) is model.params


def test_one_rank_holds_all_parameters():
    assert ranks.run(_alone, 1, "flux-dev") == [True]


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_params_are_not_changed(data):
    model = MODELS[data.draw(st.sampled_from(["flux-dev", "flux2-klein", "wan-t2v"]))]
    copies = {name: tensor.clone() for name, tensor in model.params.items()}
    assert model.first.sharding is not None
    part_of(model.params, model.first.sharding, data.draw(st.integers(0, 3)), 4)
    assert all(torch.equal(tensor, copies[name]) for name, tensor in model.params.items())
