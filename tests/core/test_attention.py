"""Every kernel of attention that runs here is torch's attention; those that do not are refused, with a cure."""

import attrs
import hypothesis
import pytest
import torch
from hypothesis import strategies as st

import pure
from pure.attention import Attend, attend, innermost, parts_of
from pure.testing import toys
from pure.transforms import attention, check_attention, dbcache
from pure.transforms.attention import machine, names
from pure.transforms.attention.kernels import Dispatched, kernel_of
from pure.transforms.attention.machine import obstacle, working
from pure.transforms.attention.names import ALIASES, BACKENDS, NAMES, canonical
from tests.support import hunyuan_video, z_image
from tests.support.flux import FLUX_DEV

HERE = ("native", "_native_math", "_native_flash", "flex")
# Sums of at most 12 products, and of at most 9 keys, in another order: some units of the last place of fp32 numbers
# that are at most about 4.
ROUNDING = 2e-6


@st.composite
def problems(draw):
    """Queries, keys and values, keys perhaps of fewer heads, and a mask of any shape that broadcasts."""
    batch, queries, keys, groups, width = (draw(st.integers(1, most)) for most in (3, 7, 9, 2, 3))
    heads, seed = groups * draw(st.integers(1, 3)), draw(st.integers(0, 99))
    q = toys.normal(batch, queries, heads, 4 * width, seed=seed)
    k, v = (toys.normal(batch, keys, groups, 4 * width, seed=seed + i) for i in (1, 2))
    kind = draw(st.sampled_from((None, "bool", "float")))
    if kind is None:
        return q, k, v, None
    shape = [draw(st.sampled_from((1, size))) for size in (batch, heads, queries)]
    scores = toys.normal(*shape, keys, seed=seed + 3)
    on = scores > draw(st.sampled_from((-9.0, -0.5, 9.0)))  # all keys, some, none
    return q, k, v, on if kind == "bool" else torch.where(on, scores, -torch.inf)


def exact(q, k, v, mask):
    """Attention in fp64 by its equation; what sees no key gets zeros."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).nan_to_num(0.0).matmul(v).transpose(1, 2), scores.logsumexp(-1, keepdim=True)


def test_these_run_on_every_machine():
    assert set(HERE) <= set(working("cpu", torch.float32))


@pytest.mark.parametrize("name", HERE)
@hypothesis.given(problem=problems())
def test_is_attention(name, problem):
    expected, _ = exact(*problem)
    assert (kernel_of(name)(*problem).double() - expected).abs().max() <= ROUNDING


@pytest.mark.parametrize("name", HERE)
@hypothesis.given(problem=problems())
def test_gives_parts_with_their_log_sum_exp(name, problem):
    q, k, v, mask = problem
    mask = mask if mask is None else mask[:, :1, :1].expand(q.shape[0], 1, 1, -1)
    expected, total = exact(q, k, v, mask)
    part = parts_of(kernel_of(name))
    assert part is not None
    out, found = part(q, k, v, mask)
    assert (out.transpose(1, 2).double() - expected).abs().max() <= ROUNDING
    assert torch.equal(found == -torch.inf, total == -torch.inf)
    assert (found.double() - total).nan_to_num(0.0).abs().max() <= ROUNDING


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name, dtype):
    q, k, v = (toys.normal(1, n, 2, 16, seed=n).to(dtype) for n in (5, 7, 7))
    expected, _ = exact(q, k, v, None)
    found = kernel_of(name)(q, k, v)
    # Weights that sum to 1 are rounded, and the result once more.
    assert (
        found.dtype == dtype and (found.double() - expected).abs().max() <= 4 * torch.finfo(dtype).eps * v.abs().max()
    )


@pytest.mark.parametrize("name", HERE)
def test_heads_that_do_not_divide_are_refused(name):
    q, k = toys.normal(1, 3, 4, 8, seed=0), toys.normal(1, 3, 3, 8, seed=1)
    with pytest.raises(ValueError, match="4 heads of queries cannot share 3 heads of keys; give a divisor of 4"):
        kernel_of(name)(q, k, k)


# ------------------------------------------------------------------------------ names


def test_every_name_is_called_or_refused_with_a_reason():
    import diffusers.models.attention_dispatch as peer

    assert {each.value for each in peer.AttentionBackendName} <= set(NAMES)
    for name in NAMES:
        if name in BACKENDS or name in ALIASES:
            assert canonical(name) in BACKENDS
        else:
            with pytest.raises(ValueError, match=f"attention '{name}' is not supported: it .*; choose one of native"):
                canonical(name)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("flsh", "no attention is called 'flsh'; did you mean 'flash'. choose one of native, "),
        ("flash", r"attention\('flash'\) needs the package flash_attn: pip install 'flash-attn>=2.6.3'"),
        ("fa3", r"needs the package flash_attn_interface: build FlashAttention 3 from source"),
        ("sage_attn", "needs the package sageattention: pip install"),
        ("sliding_tile_attn", "it leaves keys out by a pattern of its own"),
    ],
)
def test_a_transform_that_cannot_work_is_no_transform(name, wanted):
    with pytest.raises(ValueError, match=wanted):
        attention(name)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("flash", "there is no package flash_attn; pip install"),
        ("flash_hub", "there is no package kernels; pip install 'kernels>=0.12.3'"),
        ("_native_cudnn", "torch has no such kernel on cpu; it needs a GPU"),
        ("torch_cudnn_sdpa", "torch has no such kernel on cpu; it needs a GPU"),
        ("_native_efficient", "torch has no such kernel on cpu; it needs a GPU"),
    ],
)
def test_what_does_not_run_here_is_refused_with_what_does(name, wanted):
    with pytest.raises(ValueError, match=f"attention {name} does not run here: .*{wanted}.*; here run native, "):
        check_attention(name)
    assert obstacle("torch_sdpa") is None and obstacle("flex", "cpu", torch.bfloat16) is None


def test_a_ring_needs_parts():
    assert "gives no log-sum-exp" in (obstacle("_native_cudnn", parts=True) or "")
    assert obstacle("_native_math", parts=True) is None


# ------------------------------------------------------------------------------ the transform


def situation(model, transform):
    conditioning, latents, solver = model.conditioning((1, 2)), model.latents((1, 2)), model.solver
    return pure.sample(transform(model.denoiser), model.params, conditioning, latents, solver.schedule(3, 4), solver)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("model", [FLUX_DEV, z_image.Z_IMAGE_RAGGED, hunyuan_video.MODELS[0]], ids=str)
def test_every_place_that_attends_is_reached(model, name, monkeypatch):
    """Refiners too, which attend while the request is prepared; nothing is left that calls torch's choice."""
    plain = situation(model, pure.identity).latents
    called = []
    kernel = kernel_of(name)
    monkeypatch.setattr(type(kernel), "__call__", watched(type(kernel).__call__, called))
    default = watched(torch.nn.functional.scaled_dot_product_attention, others := [])
    if name == "flex":
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", default)
    found = situation(model, attention(name)).latents
    assert called and not others
    assert (found - plain).norm() <= 2e-6 * plain.norm()  # three steps of rounding


def watched(function, called):
    def call(*args, **kwargs):
        called.append(1)
        return function(*args, **kwargs)

    return call


def test_twice_is_an_error_that_names_both():
    both = pure.compose(attention("flex"), attention("_native_math"))
    with pytest.raises(ValueError, match=r"^attention\(name='flex'\) and attention\(name='_native_math'\) both"):
        both(FLUX_DEV.denoiser)
    assert pure.compose(attention("flex"), attention("flex"))(FLUX_DEV.first).attend == kernel_of("flex")
    named = pure.compose(attention("native"), attention("flex"))
    with pytest.raises(ValueError, match=r"\(name='native'\) and attention\(name='flex'\) both"):
        named(FLUX_DEV.denoiser)


def test_it_commutes_with_a_cache():
    cache, flex = dbcache(threshold=0.2), attention("flex")
    assert pure.compose(cache, flex)(FLUX_DEV.denoiser) == pure.compose(flex, cache)(FLUX_DEV.denoiser)


def test_the_innermost_is_replaced_and_the_rest_stays():
    @attrs.frozen
    class Around:
        attend: Attend

        def __call__(self, *args):
            return self.attend(*args)

    outer = attrs.evolve(FLUX_DEV.first, attend=Around(Around(attend)))
    found = attention("flex")(outer).attend
    assert found == Around(Around(kernel_of("flex"))) and innermost(found) == kernel_of("flex")


def test_a_mask_that_a_kernel_does_not_take_is_refused():
    q, mask = toys.normal(1, 3, 2, 8, seed=0), torch.ones(1, 1, 1, 3, dtype=torch.bool)
    for name, takes in (("flash", "no mask"), ("sage_varlen", "no such mask")):
        wrong = mask if name == "flash" else mask.expand(1, 2, 3, 3)
        with pytest.raises(ValueError, match=f"the attention {name} takes {takes}.*choose native or flex"):
            Dispatched(name)(q, q, q, wrong)
    part = parts_of(Dispatched("flash"))
    assert part is not None
    with pytest.raises(ValueError, match="the attention flash takes no mask; choose native or flex"):
        part(q, q, q, mask)
    assert parts_of(Dispatched("flash_varlen")) is None


def test_one_type_that_works_is_enough_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = machine._tried.__wrapped__
    for works, expected in (
        ({torch.float32}, None),
        ({torch.bfloat16}, None),
        (set(), "not in torch.bfloat16"),
    ):
        monkeypatch.setattr(machine, "_tried", lambda n, k, dtype, w=works: None if dtype in w else f"not in {dtype}")
        assert tried("flex", "cpu", None) == expected
    monkeypatch.setattr(machine, "_tried", lambda name, kind, dtype: None)
    monkeypatch.setattr(machine, "installed", lambda name: True)
    assert set(working("cuda")) == {name for name in BACKENDS if "hub" not in name}


def test_a_name_of_several_packages_is_that_which_is_there_and_else_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((set(), "flash"), ({"flash"}, "flash"), ({"_flash_3"}, "_flash_3")):
        monkeypatch.setattr(names, "installed", lambda name, there=there: name in there)
        assert canonical("fa") == expected


def test_a_package_gives_parts_with_their_weight_in_fp32(monkeypatch):
    def call(kernel, q, k, v, attn_mask=None, return_lse=False):
        assert return_lse
        return q * 2, q.new_ones(q.shape[0], q.shape[2], q.shape[1]) / 3

    monkeypatch.setattr(Dispatched, "_call", call)
    q = toys.normal(2, 5, 4, 8, seed=0).to(torch.bfloat16)
    out, total = Dispatched("flash")._in_part(q, q, q, None)
    assert torch.equal(out, (q * 2).transpose(1, 2)) and out.dtype == torch.bfloat16
    assert total.shape == (2, 4, 5, 1) and total.dtype == torch.float32


def test_a_query_without_keys_gets_zeros_whatever_the_kernel_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # cuDNN's kernel, which torch chooses on recent GPUs, returns the mean of all values there.
    torches = torch.nn.functional.scaled_dot_product_attention

    def cudnns(q, k, v, attn_mask):
        none = ~attn_mask.any(-1, keepdim=True) if attn_mask.dtype == torch.bool else (attn_mask == -torch.inf).all(-1)
        return torch.where(none.reshape(2, 1, 1, 1), v.mean(2, keepdim=True), torches(q, k, v, attn_mask=attn_mask))

    q, k, v = (toys.normal(2, 5, 3, 8, seed=seed) for seed in range(3))
    on = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()[:, None, None]
    expected = attend(q, k, v, on)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", cudnns)
    for mask in (on, torch.zeros(on.shape).masked_fill(~on, -torch.inf)):
        assert torch.equal(attend(q, k, v, mask), expected)
    assert expected[0].abs().min() > 0 and not expected[1].any()


def test_torchs_flash_kernel_refuses_a_mask_on_a_gpu() -> None:
    q, k, v = (torch.empty(1, 4, 2, 8, device="meta").as_subclass(OnGPU) for _ in range(3))
    with pytest.raises(ValueError, match="_native_flash takes no mask, and here some keys must be left out"):
        kernel_of("_native_flash")(q, k, v, torch.ones(1, 1, 1, 4, dtype=torch.bool, device="meta"))


class OnGPU(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    device = torch.device("cuda")
