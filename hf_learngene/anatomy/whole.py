"""What is known of one model: all of its tensors and norms, its sizes, and what follows from them. Knows nothing of methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from hf_learngene.anatomy.stages import StageBlocks, StageField, sizes_of_stage
from hf_learngene.anatomy.types import HEADS, HIDDEN, Dim, NormInfo, TensorInfo


@dataclass(frozen=True)
class Anatomy:
    """Axes, roles, layers and ties of every parameter of one model, from its config alone.

    Attributes:
        tensors: every parameter by name; tied ones appear under their first name only.
        ties: other name -> first name.
        norms: normalisations in order of execution.
        fields: canonical size name -> name in the config (`intermediate_size` -> `hidden_dim` in DistilBERT).
        sizes: canonical size name -> value.
        section: the nested config the sizes stand in (`vision_config`), or the empty string.
        shared_layers: whether all layers share one set of weights (ALBERT).
        rotary: whether positions enter by rotation of the head dimensions.
        normalised_heads: whether queries or keys are normalised before they meet (YOSO), a query is a parameter itself, or
            something reads the width head by head (WavLM), so that a head cannot be made larger by zeros.
        head_dim_honoured: whether the family reads `config.head_dim`.
        eps_field: config field of the normalisations' epsilon, or None.
        tied_readers: norm module -> tied weight that reads it as a decoder.
        grid: patches in height and width, for images of the config's size.
        reads_grid: whether the forward pass takes tables over patches as that grid.
        counts_no_tokens: whether the model reads videos, and no parameter counts their patches.
        numbers_of_depth: numbers of modules that follow from the depth (ESM C's scale of every residual branch).
        linked: config fields that repeat the width, and follow it; in a hierarchy that of the last stage.
        followers: the same outside of the section, each by the path that leads to it (`reassemble_hidden_size`).
        per_layer: config fields that hold one entry for each layer.
        stage_fields: canonical size name -> how the config says it of every stage. In a hierarchy the sizes themselves are
            named by stage (`hidden_size.2`); elsewhere there are none.
        blocks: of a hierarchy, what is known of each stage's blocks.
        stage: the stage of a hierarchy that this is all of, or None.
    """

    model_type: str
    model_class: str
    tensors: Mapping[str, TensorInfo]
    ties: Mapping[str, str]
    norms: tuple[NormInfo, ...]
    fields: Mapping[str, str]
    sizes: Mapping[str, int]
    section: str = ""
    shared_layers: bool = False
    rotary: bool = False
    normalised_heads: bool = False
    head_dim_honoured: bool = False
    eps_field: str | None = None
    tied_readers: Mapping[str, str] = field(default_factory=dict)
    grid: tuple[int, int] | None = None
    reads_grid: bool = True
    counts_no_tokens: bool = False
    numbers_of_depth: tuple[str, ...] = ()
    linked: tuple[str, ...] = ()
    followers: tuple[str, ...] = ()
    per_layer: tuple[str, ...] = ()
    stage_fields: Mapping[str, StageField] = field(default_factory=dict)
    blocks: tuple[StageBlocks, ...] = ()
    stage: int | None = None

    # ---- a hierarchy

    @property
    def num_stages(self) -> int:
        """Stages of a hierarchy; 0 for a model of one width and depth."""
        return len(self.blocks) if self.stage is None else 0

    @property
    def parts(self) -> tuple[Anatomy, ...]:
        """The stages of a hierarchy; of any other model, itself."""
        return self._stages if self.num_stages else (self,)

    @cached_property
    def _stages(self) -> tuple[Anatomy, ...]:
        return tuple(self._at(stage) for stage in range(self.num_stages))

    def of_stage(self, stage: int | None) -> Anatomy:
        """One stage as a model of its own: of one width and depth, with the tensors that belong to it. Itself without stages.

        Axes and sizes of the stage have their plain names (`hidden`, `hidden_size`); those of others, which a patch merging
        reads, keep theirs (`hidden.0`).
        """
        return self if stage is None or not self.num_stages else self._stages[stage]

    def _at(self, stage: int) -> Anatomy:
        def plain(dim: Dim) -> Dim:
            return dataclasses.replace(dim, stage=None) if dim.stage == stage else dim

        return dataclasses.replace(
            self,
            tensors={
                n: dataclasses.replace(t, dims=tuple(map(plain, t.dims)))
                for n, t in self.tensors.items()
                if t.stage == stage
            },
            norms=tuple(n for n in self.norms if n.stage == stage),
            sizes=sizes_of_stage(self.sizes, stage),
            eps_field=None,
            linked=(),
            blocks=(self.blocks[stage],),
            stage=stage,
        )

    @property
    def period(self) -> int:
        """How many layers alternate."""
        return self.blocks[0].period if self.stage is not None else 1

    @property
    def lead(self) -> int:
        """How many first layers are of another kind than the rest."""
        return self.blocks[0].lead if self.stage is not None else 0

    def like(self, name: str, template: str) -> TensorInfo | None:
        """What is known of a tensor of another size: of the same name, or of the last layer."""
        if not self.num_stages:
            return self.templates.get(template)
        return self.tensors.get(name) or self._last.get(template)

    @cached_property
    def _last(self) -> dict[str, TensorInfo]:
        return {t.template: t for t in self.tensors.values()}

    # ---- what is known of the tensors

    @cached_property
    def templates(self) -> dict[str, TensorInfo]:
        """One tensor of each template."""
        found: dict[str, TensorInfo] = {}
        for info in self.tensors.values():
            found.setdefault(info.template, info)
        return found

    @cached_property
    def containers(self) -> tuple[str, ...]:
        """Names of the module lists that hold the layers; none where all layers share one set of weights."""
        return tuple(dict.fromkeys(t.partition(".{}.")[0] for t in self.templates if ".{}." in t))

    @cached_property
    def num_parameters(self) -> int:
        """Parameters, tied ones counted once."""
        return sum(info.numel for info in self.tensors.values())

    @cached_property
    def structure(self) -> frozenset[object]:
        """What is said of the tensors and norms, whatever their sizes: equal for two sizes of one family."""
        tensors = (
            dataclasses.replace(
                t, name="", layer=None, module="", dims=tuple(dataclasses.replace(d, size=0, prefix=0) for d in t.dims)
            )
            for t in self.templates.values()
        )
        norms = [dataclasses.replace(n, name=n.name if n.layer is None else "", layer=None) for n in self.norms]
        flags = (
            ("rotary", self.rotary),
            ("normalised_heads", self.normalised_heads),
            ("head_dim_honoured", self.head_dim_honoured),
            ("shared_layers", self.shared_layers),
            ("eps_field", self.eps_field),
            ("section", self.section),
            ("linked", self.linked),
            ("followers", self.followers),
            ("per_layer", self.per_layer),
            ("blocks", self.blocks),
        )
        return frozenset((*tensors, tuple(dict.fromkeys(norms)), *self.tied_readers.items(), *flags))

    @cached_property
    def of_several_shapes(self) -> str:
        """Template of a tensor that is longer in layers of one kind than in those of another (SAM's tables), or nothing."""
        return next((t.template for t in self.tensors.values() if t.shape != self.templates[t.template].shape), "")

    @property
    def num_layers(self) -> int:
        return self.sizes.get("num_hidden_layers", 0)

    def layer_of(self, tensor: TensorInfo) -> int | None:
        """The layer whose heads and units a tensor holds: where all layers share one set of weights, that is layer 0."""
        return 0 if tensor.layer is None and self.shared_layers else tensor.layer

    @cached_property
    def post_norm(self) -> bool:
        """Whether each layer hands on the output of a normalisation (BERT), instead of a sum (ViT)."""
        return any(n.closes_layer for n in self.norms)

    @cached_property
    def layers_read_from_outside(self) -> frozenset[int]:
        """Layers whose output something else than the next layer reads (DeBERTa-v2's convolution reads the first)."""
        inside = [i for i, n in enumerate(self.norms) if n.layer is not None]
        between = [i for i, n in enumerate(self.norms) if n.layer is None and inside and inside[0] < i < inside[-1]]
        return frozenset(self.norms[max(j for j in inside if j < i)].layer or 0 for i in between)

    @cached_property
    def unseen(self) -> list[TensorInfo]:
        """Tensors over the width that the recorded pass did not reach and whose role no name tells.

        An image's projector in a text model, for one. What they write and read is not known.
        """
        return [
            t
            for t in self.templates.values()
            if not t.traced and t.kind != "token" and not t.role and any(d.axis in (HIDDEN, HEADS) for d in t.dims)
        ]

    @cached_property
    def private_widths(self) -> frozenset[str]:
        """Axes that plain matrices write and read, without heads or norms: an ffn, an adapter's inside."""
        sides: dict[str, set[str]] = {}
        for tensor in self.templates.values():
            attends = tensor.role not in ("", "ffn_in", "ffn_out")
            for dim in tensor.dims:
                sides.setdefault(dim.axis, set()).update({dim.side, "attention"} if attends else {dim.side})
        return frozenset(axis for axis, found in sides.items() if found == {"in", "out"})

    @cached_property
    def composed_layers(self) -> tuple[str, ...]:
        """Fields that count a width inside the layers together, of which it is not known what stands where; none where all is."""
        return next(
            (
                d.counted_together
                for t in self.templates.values()
                for d in t.dims
                if t.layer is not None and d.counted_together and d.side != "-" and d.axis not in self.private_widths
            ),
            (),
        )

    @cached_property
    def norm_of(self) -> dict[str, NormInfo | None]:
        """Template of a normalisation's weight or bias -> the last normalisation of that template; None if it was not seen."""
        norms = {n.name: n for n in self.norms}
        return {t.template: norms.get(t.module) for t in self.tensors.values() if t.kind.startswith("norm")}

    @cached_property
    def centred(self) -> bool:
        """Whether every normalisation over the width subtracts the mean."""
        return all(n.centred for n in self.norms if n.axis == HIDDEN)

    @cached_property
    def needs_multiples(self) -> bool:
        """Whether only whole multiples of the width are exact; see `norms_that_need_multiples`."""
        return bool(self.norms_that_need_multiples())

    @cached_property
    def scales_epsilon(self) -> bool:
        """Whether the config's epsilon can be scaled: every norm over the width follows it, and no other norm does."""
        return self.eps_field is not None and all(n.eps_follows_config == (n.axis == HIDDEN) for n in self.norms)

    def norms_that_need_multiples(self, axis: str = HIDDEN) -> list[NormInfo]:
        """Normalisations of `axis` whose input is not a plain sum of writers.

        Such an input cannot be given the mean of its own entries in the new places, so widths that are no whole
        multiple are not exact there: post-norm layers, a normalised embedding, a norm after an activation.
        """
        over = [n for n in self.norms if n.axis == axis]
        if len({n.centred for n in over}) > 1:
            return over  # the mean in the new places suits one kind, zero the other
        return [n for n in over if not n.reads <= {"writer"}]
