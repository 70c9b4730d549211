"""`quantize_config`: what it means, and what of it is refused, where it stands and with what would do."""

import importlib.util

import pytest

from pure.configs import ConfigError, Facts, build, load_text, quantizations, resolve
from pure.configs.schema import QUANT
from pure.transforms import Quantization
from pure.transforms.quantize.kinds import KINDS

ONE = Facts(experts=1)


def effective(text: str, facts: Facts = ONE):
    return resolve(file=load_text(text, "q.yaml"), facts=facts)


def quantize(keys: str, facts: Facts = ONE):
    return quantizations(effective(f"quantize_config: {{{keys}}}", facts))


def problems(keys: str, facts: Facts = ONE) -> list[str]:
    found = effective(f"quantize_config: {{{keys}}}", facts)
    with pytest.raises(ConfigError, match="in the configuration"):
        quantizations(found)
    with pytest.raises(ConfigError, match="in the configuration"):
        build(found)
    return [str(problem) for problem in found.refusals]


def test_nothing_said_is_nothing_done():
    assert quantizations(effective("cache_config: {Fn_compute_blocks: 1}")) == {}


def test_defaults_are_those_of_cache_dit():
    assert quantize("verbose: false") == dict.fromkeys(("transformer", "transformer_2"), Quantization())


@pytest.mark.parametrize("name", [name for name in QUANT if not name.startswith(("svdq", "nvfp4"))])
def test_every_kind_has_a_meaning(name):
    kind = quantize(f"quant_type: {name}")["transformer"].kind
    assert kind in KINDS
    assert kind == {"float8": "float8_per_row", "int8": "int8_per_row", "float8_blockwise": "float8_per_block"}.get(
        name, name
    )


@pytest.mark.parametrize("name", [name for name in QUANT if name.startswith(("svdq", "nvfp4"))])
def test_every_other_kind_is_refused(name):
    (problem,) = problems(f"quant_type: {name}")
    assert problem.startswith(f"q.yaml:1:31: quantize_config.quant_type: {name}")
    assert problem.endswith("write float8, int8_weight_only or float8_weight_only")


@pytest.mark.parametrize(
    ("keys", "changed"),
    [
        ("backend: torchao", {}),
        ("exclude_layers: [embedder, to_q]", {"exclude": ("embedder", "to_q")}),
        ("regional_quantize: false", {"blocks": False}),
        ("per_tensor_fallback: false", {"fallback": False}),
        (
            "precision_plan: {attn.to_q: int8, ff: float8_blockwise}",
            {"plan": (("attn.to_q", "int8_per_row"), ("ff", "float8_per_block"))},
        ),
    ],
)
def test_keys(keys, changed):
    assert quantize(keys)["transformer"] == Quantization(**changed)


def test_components():
    two = Facts(experts=2)
    plain, int8 = Quantization(), Quantization(kind="int8_per_row")
    assert quantize("components_to_quantize: [transformer]") == {"transformer": plain}
    assert quantize("components_to_quantize: [transformer_2]", two) == {"transformer_2": plain}
    assert quantize("components_to_quantize: [transformer_2]", Facts()) == {"transformer_2": plain}, "not known yet"
    assert quantize("components_to_quantize: {transformer: int8, transformer_2: }", two) == {
        "transformer": int8,
        "transformer_2": plain,
    }
    own = "components_to_quantize: {transformer: {quant_type: int8, exclude_layers: [a]}}, regional_quantize: false"
    assert quantize(own) == {"transformer": Quantization(kind="int8_per_row", exclude=("a",), blocks=False)}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("backend: cache_dit", ("quantize_config.backend: cache_dit quantises with kernels of its own", "write ao")),
        ("backend: svdq", ("quantize_config.backend: svdq quantises with kernels of its own", "write ao")),
        ("exclude_layers: [a], backend: svdq", ("quantize_config.backend: svdq quantises",)),
        ("repeated_blocks: [Block]", ("it names Python classes", "exclude_layers leaves out single blocks")),
        ("serialize_to: out", ("are not written", "remove the key")),
        ("svdq_kwargs: {a: 1}", ("SVDQuant is not implemented", "remove the key")),
        ("precision_plan: {a: int9}", ("found text 'int9', which is no quant_type", "did you mean int8?")),
        ("precision_plan: {a: 3}", ("found the number 3, which is no quant_type",)),
        ("precision_plan: {'': int8}", ("an empty name, which every layer contains",)),
        ("precision_plan: {a: nvfp4}", ("nvfp4 needs kernels of the newest GPUs", "write float8")),
        ("components_to_quantize: [vae]", ("vae is a module of another library", "name transformer only")),
        ("components_to_quantize: [transformer_2]", ("the model has no transformer_2",)),
        ("components_to_quantize: []", ("it names no component",)),
        ("components_to_quantize: {transformer: {backend: ao}}", ("transformer: backend cannot be set for one comp",)),
        ("components_to_quantize: {transformer: 3}", ("transformer: found the number 3", "write a quant_type")),
        (
            "components_to_quantize: {transformer: int9}",
            ("transformer: quant_type: found text 'int9'", "did you mean int8?"),
        ),
        (
            "components_to_quantize: {transformer: {quant_typ: int8}}",
            ("quant_typ cannot be set for one component", "did you mean quant_type?"),
        ),
        (
            "components_to_quantize: {transformer: {exclude_layers: to_q}}",
            ("exclude_layers: found text 'to_q'; allowed: a list of names", 'write ["to_q"]'),
        ),
    ],
)
def test_what_is_refused_says_where_and_what_would_do(keys, words):
    found = problems(keys)
    assert len(found) == 1 and found[0].startswith("q.yaml:1:")
    assert all(word in found[0] for word in words), found
    named = found[0].split(": ")[1].removeprefix("quantize_config.")
    assert f"{named}: " in keys, "the key that is wrong"


def test_everything_that_is_wrong_is_said_at_once():
    assert (
        len(problems("quant_type: nvfp4, backend: svdq, serialize_to: out, components_to_quantize: [vae, audio]")) == 5
    )


def test_without_the_extra_that_is_all_that_is_said(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torchao" else found(name, *rest)
    )
    (problem,) = problems("exclude_layers: [a], quant_type: nvfp4")
    assert "torchao is not installed" in problem and problem.endswith("pip install 'puredit[quant]'")


@pytest.fixture
def old_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))


@pytest.mark.usefixtures("old_gpu")
def test_an_old_gpu_is_refused_before_anything_is_loaded():
    (problem,) = problems("quant_type: float8", Facts(device="cuda", experts=1))
    assert "compute capability 8.9" in problem and problem.endswith("write float8_weight_only or int8_weight_only")
    assert quantize("quant_type: float8_weight_only", Facts(device="cuda", experts=1))


@pytest.mark.usefixtures("old_gpu")
def test_the_default_kind_is_refused_at_the_key_that_is_there():
    """Nothing says quant_type, and what it is by default cannot be done: the section's own key is named."""
    (problem,) = problems("exclude_layers: [a]", Facts(device="cuda", experts=1))
    assert problem.startswith("q.yaml:1:") and "float8_per_row needs a GPU" in problem
