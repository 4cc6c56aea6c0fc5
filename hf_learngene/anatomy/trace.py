"""What flows where: one forward pass on `meta`, recorded function by function.

Shapes cannot tell a width that lives in the residual stream from one that lives in the attention heads, nor a norm that
reads the residual stream from one that writes it. The order of the functions can. The pass costs no arithmetic.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, resolve_name
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS

from hf_learngene.anatomy import meta


_CLASSES: list[Any] = [c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()]
_ACTIVATIONS = tuple(c for c in _CLASSES if c is not nn.Identity)
_ACTIVATION_FUNCTIONS = {
    "gelu",
    "relu",
    "silu",
    "tanh",
    "sigmoid",
    "softmax",
    "mish",
    "elu",
    "leaky_relu",
    "erf",
    "exp",
    "celu",
}
_ATTENTION_FUNCTIONS = {
    "scaled_dot_product_attention",
    "matmul",
    "__matmul__",
    "bmm",
    "baddbmm",
    "einsum",
    "multi_head_attention_forward",
}
_NORMS = {"layer_norm", "group_norm", "rms_norm", "batch_norm"}
_NORMALISING = {"normalize", "norm", "vector_norm", "rsqrt"}
_TURNED = "turned"  # a product with what comes from no parameter
_SCALINGS = {"mul", "__mul__", "__rmul__", "mul_", "__imul__"}
_SUMS = {"add", "__add__", "__radd__", "add_", "__iadd__", "sub", "__sub__", "__rsub__", "sub_", "__isub__"}
_PRODUCTS = {"linear", "conv1d", "conv2d", "conv3d"}
# the other tensor gives these only its shape or its type, or they take nothing but that from the first
_AS_ANOTHER = {"type_as", "to", "view_as", "expand_as", "reshape_as"}
_MADE_ANEW = {
    "empty_like", "zeros_like", "ones_like", "full_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_tensor",
}  # fmt: skip


@dataclass(eq=False)
class Node:
    """One recorded result."""

    kind: str  # linear | conv | embedding | norm | activation | attention | parameter | constant | through
    parents: tuple[Any, ...] = ()
    name: str = ""  # parameter or module name
    function: str = ""


@dataclass
class Trace:
    """Recorded graph of one forward pass.

    Attributes:
        norms: norm module -> its first result's node, in order of execution.
        norms_again: norm module -> the nodes of its further results (BLIP's last norm runs on its own output).
        products: weight name -> nodes of the products made with it.
        layer_outputs: layer module name -> node of what it hands on.
        attention: attention nodes in order.
        touched: every parameter that entered a function.
        resampled: height x width of every table or image that was interpolated.
    """

    norms: dict[str, Node] = field(default_factory=dict)
    norms_again: dict[str, list[Node]] = field(default_factory=dict)
    products: dict[str, list[Node]] = field(default_factory=dict)
    layer_outputs: dict[str, Node] = field(default_factory=dict)
    attention: list[Node] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    resampled: set[int] = field(default_factory=set)

    @staticmethod
    def sources(node: Node | None) -> Iterator[Source]:
        """Nodes that reach `node` through sums, reshapes, picks and scales only."""
        stack: list[Source] = [Source(node)] if node else []
        seen: set[int] = set()
        while stack:
            current = stack.pop()
            if id(current.node) in seen:
                continue
            seen.add(id(current.node))
            if current.node.kind != "through":
                yield current
                continue
            scaled = current.node.function in _SCALINGS
            scale = next((p.name for p in current.node.parents if scaled and p.kind == "parameter"), current.scale)
            for parent in current.node.parents:
                stack.append(Source(parent, scaled and parent.kind == "parameter", scale))

    def within(self, names: set[str]) -> Trace:
        """The same trace with the attention alone that reads what some weights write: another encoder's says nothing here.

        A product that nothing reads on its way to the outputs is none: two embeddings that are compared (CLIP's logits).
        """
        read = self._read()

        def belongs(node: Node) -> bool:
            sides = [[s.node for s in self.sources(p) if s.node.kind != "activation"] for p in node.parents[:2]]
            found = [[n.name for n in side if n.name] for side in sides]
            ours = all(not side or any(n in names or f"{n}.weight" in names for n in side) for side in found)
            return ours and id(node) in read

        return replace(self, attention=[node for node in self.attention if belongs(node)])

    def _read(self) -> set[int]:
        """Nodes that a product, a norm or an attention reads, at whatever distance."""
        again = (node for nodes in self.norms_again.values() for node in nodes)
        products = (node for nodes in self.products.values() for node in nodes)
        stack = [p for n in (*self.norms.values(), *again, *products, *self.attention) for p in n.parents]
        seen: set[int] = set()
        while stack:
            node = stack.pop()
            if id(node) not in seen:
                seen.add(id(node))
                stack.extend(node.parents)
        return seen

    def queries_are_learnt(self) -> bool:
        """Whether a parameter meets the keys as it stands, without a projection."""
        for node in self.attention:
            if node.function != "multi_head_attention_forward" and node.parents:
                sources = [s for s in Trace.sources(node.parents[0]) if not s.is_scale]
                if sources and all(s.node.kind == "parameter" for s in sources):
                    return True
        return False

    def heads_are_normalised(self) -> bool:
        """Whether something between the projections and the attention divides by a length."""
        return self.before_attention(_NORMALISING)

    def norms_of_heads(self) -> set[str]:
        """Norms between one projection each and the attention: of all queries, and of all keys."""
        found: set[str] = set()
        for node in self.attention:
            sides = [list(self.sources(p)) for p in node.parents[:2]]
            norms = [s.node for side in sides for s in side]
            whole = node.function != "multi_head_attention_forward" and all(len(side) == 1 for side in sides)
            if whole and len(norms) == 2 and all(self.is_of_a_projection(n) for n in norms):
                found.update(n.name for n in norms)
        return found

    @classmethod
    def is_of_a_projection(cls, norm: Node) -> bool:
        """Whether a node is a norm of what one matrix gives, and of nothing else."""
        read = [s.node.kind for s in cls.sources(norm.parents[0])] if norm.kind == "norm" and norm.parents else []
        return read == ["linear"]

    def heads_are_turned(self) -> bool:
        """Whether something between the projections and the attention multiplies by what the pass makes (rotations)."""
        return self.before_attention({_TURNED})

    def before_attention(self, functions: set[str]) -> bool:
        """Whether one of some functions stands between the projections and the attention."""
        stack = [p for node in self.attention for p in node.parents]
        seen: set[int] = set()
        while stack:
            node = stack.pop()
            if id(node) in seen or node.kind != "through":
                continue
            seen.add(id(node))
            if node.function in functions:
                return True
            stack.extend(node.parents)
        return False


@dataclass(frozen=True, eq=False)
class Source:
    """A node that reaches another: as a factor (LayerScale), and scaled by which parameter on its way."""

    node: Node
    is_scale: bool = False
    scale: str = ""


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _is_normed(node: Node) -> bool:
    """Whether a result is the sum of norms' outputs and of nothing else."""
    sources = list(Trace.sources(node))
    return bool(sources) and all(s.node.kind == "norm" for s in sources)


def is_norm(module: nn.Module) -> bool:
    """A normalisation over all features: named so, holding nothing but vectors."""
    if "Norm" not in type(module).__name__ or isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return False
    if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
        return False
    own = list(module.parameters())
    return bool(own) and all(p.dim() == 1 for p in own)


def subtracts_mean(norm: nn.Module) -> bool:
    """Whether a normalisation gives the same for an input and its shifted copy; tried on a copy of it."""
    copied = copy.deepcopy(norm).to_empty(device="cpu").to(torch.float32)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(1.0)
        size = next(copied.parameters()).shape[-1]
        entries = torch.linspace(-1.0, 1.0, size, dtype=torch.float32, device="cpu")
        failure = ""
        for shape in (
            (1, 1, size),
            (1, size, 1),
            (1, size, 1, 1),
        ):  # entries may stand before (SqueezeBERT), as channels do
            try:
                plain, shifted = (
                    next(_tensors(copied(x.reshape(shape))), torch.zeros(1)) for x in (entries, entries + 3.0)
                )
            except RuntimeError as error:
                failure = str(error)
                continue
            return size == 1 or torch.allclose(plain, shifted, atol=1e-3)
    raise RuntimeError(failure)


class _Recorder(TorchFunctionMode):
    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names, self.trace = names, Trace()
        self.nodes: dict[int, Node] = {}
        self.transposed: dict[int, str] = {}  # a transposed matrix -> its parameter's name
        self.alive: list[torch.Tensor] = []  # ids are only unique while the tensors live
        self.inside = 0  # depth inside a module that counts as one function

    def node(self, tensor: torch.Tensor) -> Node | None:
        if id(tensor) in self.names:
            return Node("parameter", name=self.names[id(tensor)])
        return self.nodes.get(id(tensor))

    def keep(self, result: Any, node: Node) -> None:
        for tensor in _tensors(result):
            self.nodes[id(tensor)] = node
            self.alive.append(tensor)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = meta.run(func, args, kwargs)
        inputs = [*_tensors(args), *_tensors(kwargs)]
        self.trace.touched.update(self.names[id(t)] for t in inputs if id(t) in self.names)
        function = getattr(func, "__name__", None) or str(resolve_name(func)).rsplit(".", 1)[-1]
        if function == "_weight_norm" and id(inputs[0]) in self.names:
            self.names[id(result)] = self.names[id(inputs[0])]  # the weight itself, to what comes after
            self.alive.append(result)
            return result
        if function == "__setitem__" and not self.inside:  # what is written into a tensor is part of it
            self.keep(
                args[0],
                Node("through", tuple(n for n in (self.node(args[0]), *map(self.node, _tensors(args[2]))) if n)),
            )
        if self.inside or not any(True for _ in _tensors(result)):
            return result
        if function == "interpolate" and inputs[0].dim() == 4:
            self.trace.resampled.add(inputs[0].shape[-2] * inputs[0].shape[-1])
        in_place = function.endswith("_") and (function.startswith("__i") or not function.startswith("__"))
        if not in_place and any(result is tensor for tensor in inputs):
            return result  # dropout in eval mode, contiguous: the same tensor
        if function in ("t", "transpose") and inputs[0].dim() == 2 and id(inputs[0]) in self.names:
            self.transposed[id(result)] = self.names[id(inputs[0])]
        attends = function == "multi_head_attention_forward"
        node = self.fused_attention(args, kwargs) if attends else self.make(function, inputs)
        if node.kind in _PRODUCT_KINDS:
            self.trace.products.setdefault(node.name, []).append(node)
        elif node.kind == "attention":
            self.trace.attention.append(node)
        self.keep(result, node)
        return result

    def make(self, function: str, inputs: list[torch.Tensor]) -> Node:
        if function in _MADE_ANEW:
            return Node("through", (), "", function)
        inputs = inputs[:1] if function in _AS_ANOTHER else inputs
        parents = tuple(n for n in map(self.node, inputs) if n is not None)
        if function in _PRODUCTS:
            weight = self.names.get(id(inputs[1]), "") if len(inputs) > 1 else ""
            read = self.node(inputs[0])
            return Node("linear" if function == "linear" else "conv", (read,) if read else (), weight, function)
        if function == "embedding":
            weights = [self.names[id(t)] for t in inputs if id(t) in self.names]
            return Node("embedding", (), weights[0] if weights else "", function)
        if function in ("matmul", "__matmul__") and id(inputs[-1]) in self.transposed:
            return Node("linear", parents[:1], self.transposed[id(inputs[-1])], "linear")
        if function in _ATTENTION_FUNCTIONS and any(next(Trace.sources(p), None) for p in parents):
            return Node("attention", tuple(self.node(t) or Node("other") for t in inputs), "", function)
        if function in _ACTIVATION_FUNCTIONS:
            return Node("activation", parents, "softmax" if function == "softmax" else "", function)
        if function in _SCALINGS and any(self.comes_from_nowhere(t, inputs) for t in inputs):
            return Node("through", parents, "", _TURNED)
        if function in _NORMS:
            return Node("other", parents, "", function)
        if function in _SUMS:
            parents += tuple(Node("constant") for t in inputs if self.comes_from_nowhere(t, inputs))
        return Node("through", parents, "", function)

    def comes_from_nowhere(self, tensor: torch.Tensor, summands: list[torch.Tensor]) -> bool:
        """Whether `tensor` is as wide as what it is added to and holds no parameter: sinusoids made on the way."""
        width = max((t.shape[-1] for t in summands if t.dim()), default=1)
        if width == 1 or not tensor.dim() or tensor.shape[-1] != width or not tensor.is_floating_point():
            return False
        node = self.node(tensor)
        return node is None or next(Trace.sources(node), None) is None

    def fused_attention(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Node:
        """A whole attention in one function: with its projections in one matrix (BEiT-3), or in three (WavLM)."""
        given = _MULTI_HEAD.bind(*args, **kwargs).arguments
        states = tuple(self.node(given[n]) or Node("other") for n in ("query", "key", "value"))
        fused = self.names.get(id(given["in_proj_weight"]), "")
        if fused:
            self.trace.products.setdefault(fused, []).append(Node("linear", states, fused, "linear"))
        for place, part in enumerate("qkv"):
            weight = self.names.get(id(given.get(f"{part}_proj_weight")), "")
            if weight:
                node = Node("linear", (states[place],), weight, "linear")
                self.trace.products.setdefault(weight, []).append(node)
        attention = Node("attention", states, "", "multi_head_attention_forward")
        return Node("linear", (attention,), self.names.get(id(given["out_proj_weight"]), ""), "linear")


_MULTI_HEAD = inspect.signature(functional.multi_head_attention_forward)
_PRODUCT_KINDS = ("linear", "conv", "embedding")


def record(model: PreTrainedModel, inputs: dict[str, torch.Tensor], layers: set[str]) -> Trace:
    """Runs `model` once on `inputs` and returns what flowed where. `layers` names the encoder layer modules."""
    recorder = _Recorder({id(p): n for n, p in model.named_parameters()})
    handles = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        recorder.inside += 1

    def leave(name: str, kind: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        recorder.inside -= 1
        if recorder.inside:
            return
        first = next(_tensors((args, kwargs)), None)
        parent = recorder.node(first) if first is not None else None
        node = Node(kind, (parent,) if parent else (), name)
        if kind == "norm" and recorder.trace.norms.setdefault(name, node) is not node:
            recorder.trace.norms_again.setdefault(name, []).append(node)
        recorder.keep(result, node)

    def leave_layer(name: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        for number, tensor in enumerate(_tensors(result)):
            node = recorder.node(tensor)
            # a second one that a norm hands on is a residual stream beside the first (LiLT's layout); others look into the layer
            if node is not None and (number == 0 or _is_normed(node)):
                recorder.trace.layer_outputs[f"{name}:{number}" if number else name] = node

    for name, module in model.named_modules():
        kind = "norm" if is_norm(module) else "activation" if isinstance(module, _ACTIVATIONS) else ""
        if kind:
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(functools.partial(leave, name, kind), with_kwargs=True))
        elif name in layers:
            handles.append(module.register_forward_hook(functools.partial(leave_layer, name), with_kwargs=True))
    try:
        with torch.no_grad(), recorder:
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.trace
