"""What a syntax tree shows of impurity: hidden random numbers, writes into tensors, side effects.

A tensor is recognised within one function: a parameter or variable annotated as one, or
a variable that holds the result of a torch function, of a tensor's arithmetic or of a
slice. The laws (pure.testing) compare values and version counters and catch the rest.
"""

import ast
from collections.abc import Iterator

from tests.structure.source import dotted

DRAWS = {
    "bernoulli",
    "multinomial",
    "normal",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
}
GLOBAL_GENERATOR = {"torch.manual_seed", "torch.seed", "torch.set_rng_state", "torch.get_rng_state"}
SIDE_EFFECTS = {"print", "input", "os.getenv", "os.putenv"}
# What torch functions and tensor methods return that is no tensor.
TORCH_VALUES = {"device", "dtype", "finfo", "iinfo", "Size", "Generator", "is_tensor", "compile", "no_grad"}
NOT_TENSORS = {"size", "dim", "numel", "item", "tolist", "stride", "element_size", "get_device", "data_ptr"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def impurities(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every impure thing that can be seen in a module, with what to do instead."""
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from ((node, message) for message in _call(node, aliases))
        if isinstance(node, ast.Attribute | ast.Name) and _name(node, aliases) == "os.environ":
            yield node, "os.environ: the shell reads the environment and passes values"
    yield from _writes(tree.body, set(), aliases)


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Local names of imported modules and functions: `F` is `torch.nn.functional`."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return aliases


def _name(node: ast.AST, aliases: dict[str, str]) -> str:
    """The full dotted name of an expression, import aliases undone."""
    first, _, rest = dotted(node).partition(".")
    return ".".join(filter(None, (aliases.get(first, first), rest)))


def _call(node: ast.Call, aliases: dict[str, str]) -> Iterator[str]:
    name = _name(node.func, aliases)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    attribute = node.func.attr if isinstance(node.func, ast.Attribute) else name.split(".")[-1]
    draws = name.startswith("torch.") and attribute in DRAWS
    draws = draws or (isinstance(node.func, ast.Attribute) and attribute in {"bernoulli", "multinomial"})
    if draws and ast.unparse(keywords.get("generator", ast.Constant(None))) == "None":
        yield f"{attribute} without generator=: draws from the global generator"
    if name in GLOBAL_GENERATOR or name.startswith(("random.", "numpy.random.")):
        yield f"{name}: global random state; noise is an argument"
    if name.startswith("torch.") or isinstance(node.func, ast.Attribute):
        if attribute.endswith("_") and not attribute.startswith("_"):
            yield f"{attribute} writes in place; use {attribute.rstrip('_')}"
    if "out" in keywords:
        yield "out= writes into an argument; use the result"
    if ast.unparse(keywords.get("inplace", ast.Constant(False))) != "False":
        yield "inplace= writes into an argument; use the result"
    if name in SIDE_EFFECTS:
        yield f"{name}: side effects belong to the shell (cli, serving)"


def _writes(body: list, tensors: set[str], aliases: dict[str, str]) -> Iterator[tuple[ast.AST, str]]:
    """Assignments that change a tensor, in the statements of one scope and then of those within it."""
    nodes = list(_scope(body))
    # In the order of the source; twice, for names that a loop binds below their use.
    for node in [*nodes, *nodes]:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and _is_tensor(node.value, tensors, aliases):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            tensors = tensors | {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _says_tensor(node.annotation):
            tensors = tensors | {node.target.id}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Subscript) and (_is_slice(target.slice) or _is(target.value, tensors)):
                    yield node, f"{ast.unparse(target)}: writes in place; use torch.where, index_copy or cat"
                if isinstance(target, ast.Attribute) and target.attr == "data":
                    yield node, f"{ast.unparse(target)}: replaces a tensor's storage"
                if isinstance(node, ast.AugAssign) and _is(target, tensors):
                    yield node, f"{ast.unparse(node)}: writes in place; bind a new value"
        elif isinstance(node, FUNCTIONS):
            inner = [node.body] if isinstance(node, ast.Lambda) else node.body
            yield from _writes(inner, _parameters(node, tensors), aliases)


def _scope(body: list) -> Iterator[ast.AST]:
    """The nodes of a scope in source order, down to nested functions but not into them."""
    for node in body:
        yield node
        if not isinstance(node, FUNCTIONS):
            yield from _scope(list(ast.iter_child_nodes(node)))


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, outer: set[str]) -> set[str]:
    """The tensors known at the start of a function: those around it and its annotated parameters."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return outer - {a.arg for a in every} | {a.arg for a in every if a.annotation and _says_tensor(a.annotation)}


def _says_tensor(annotation: ast.expr) -> bool:
    alternatives = ast.unparse(annotation).strip("'\"").split("|")
    return any(alternative.strip() in {"Tensor", "torch.Tensor"} for alternative in alternatives)


def _is(node: ast.expr, tensors: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in tensors


def _is_slice(index: ast.expr) -> bool:
    """`[..., 0]`, `[:, 1]`: nothing but an array is indexed so (a plain `[a:b]` may be a list)."""
    parts = index.elts if isinstance(index, ast.Tuple) else []
    return any(isinstance(part, ast.Slice) or ast.unparse(part) == "..." for part in parts)


def _is_tensor(node: ast.expr, tensors: set[str], aliases: dict[str, str]) -> bool:
    """Whether an expression is known to be a tensor."""
    if isinstance(node, ast.BinOp):
        return _is_tensor(node.left, tensors, aliases) or _is_tensor(node.right, tensors, aliases)
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not):
        return _is_tensor(node.operand, tensors, aliases)
    if isinstance(node, ast.Subscript):
        return _is_tensor(node.value, tensors, aliases)
    if isinstance(node, ast.Call):
        module, _, function = _name(node.func, aliases).rpartition(".")
        if module in {"torch", "torch.nn.functional"}:
            return function not in TORCH_VALUES
        if isinstance(node.func, ast.Attribute) and node.func.attr not in NOT_TENSORS:
            return _is_tensor(node.func.value, tensors, aliases)
    return _is(node, tensors)
