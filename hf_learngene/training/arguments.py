"""`LearngeneTrainingArguments`: transformers' `TrainingArguments`, and how to distil."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_learngene.errors import UnknownOptionError


DISTILLATIONS = ("soft", "hard", "features", "embeddings", "none")


@dataclass
class LearngeneTrainingArguments(TrainingArguments):
    """Transformers' `TrainingArguments`, with the weights of the losses of a distillation.

    Args:
        alpha (`float`, *optional*, defaults to 0.5): weight of the teacher; the labels have `1 - alpha`. 1.0 is the recipe of
            SWS, TLEG and LeTs, which never look at a label; 0.5 is WAVE's.
        temperature (`float`, *optional*, defaults to 1.0): softens the logits of both.
        distillation (`str`, *optional*, defaults to `"soft"`): `soft` logits, `hard` decisions of the teacher, `features` (the
            last hidden state, for a teacher without a head), `embeddings` (the same as it stands, for a student that begins near
            its teacher), or `none`.
        hidden_states_weight (`float`, *optional*, defaults to 0.0): adds the hidden states of matching layers (TinyBERT).
        relations_weight (`float`, *optional*, defaults to 0.0): adds the q, k, v relations of one layer (MiniLM v2).
        relation_heads (`int`, *optional*, defaults to 12): relation heads of MiniLM v2.
        relation_layer (`int`, *optional*, defaults to -1): the teacher's layer whose relations are learnt.
        cache_teacher (`bool`, *optional*, defaults to `False`): compute the teacher's logits once, before training, and keep
            them in `output_dir`. For data that is the same each epoch: what draws random numbers for each example is refused.
            A data set without a fingerprint (those of `datasets` have one) is read once more, up to 65536 examples of it, to
            be known again.
        sandwich_weight (`float`, *optional*, defaults to 0.0): each step also trains a descendant of another size, drawn at
            random, with this weight (POA's elastic branch, arXiv 2408.01031). It learns from labels, logits and features.
        sandwich_min_layers (`int`, *optional*): its smallest depth; default: a third of the auxiliary model's. In a hierarchy, of
            each stage.
        sandwich_max_layers (`int`, *optional*): its largest depth, which may exceed the auxiliary model's; default: one less. In
            a hierarchy, of each stage; default: as many blocks as it has, but not in all stages at once.
        sandwich_widths (`list[int]`, *optional*): widths it is drawn from, where the learngene changes width. Not with
            `features`, which are compared at one width.
        auxiliary_weight (`float`, *optional*, defaults to 1.0): weight of the auxiliary model's own losses beside those of the
            drawn descendant. 0 leaves it out: each step trains one size alone, at its cost (MatFormer, arXiv 2310.07707), and
            its own depth is among those that are drawn by default, in a hierarchy that of every stage but not of all at once.

    Raises:
        UnknownOptionError: a value outside its range, with the range.
    """

    alpha: float = field(default=0.5, metadata={"help": "Weight of the teacher; the labels have 1 - alpha."})
    temperature: float = field(default=1.0, metadata={"help": "Softens the logits of teacher and student."})
    distillation: str = field(default="soft", metadata={"help": "soft, hard, features, embeddings or none."})
    hidden_states_weight: float = field(
        default=0.0, metadata={"help": "Weight of the hidden states of matching layers."}
    )
    relations_weight: float = field(default=0.0, metadata={"help": "Weight of MiniLM v2's relations."})
    relation_heads: int = field(default=12, metadata={"help": "Relation heads of MiniLM v2."})
    relation_layer: int = field(default=-1, metadata={"help": "The teacher's layer whose relations are learnt."})
    cache_teacher: bool = field(
        default=False, metadata={"help": "Compute the teacher's logits once and keep them on disk."}
    )
    sandwich_weight: float = field(
        default=0.0, metadata={"help": "Weight of a smaller descendant drawn at each step."}
    )
    sandwich_min_layers: int | None = field(default=None, metadata={"help": "Its smallest depth."})
    sandwich_max_layers: int | None = field(default=None, metadata={"help": "Its largest depth."})
    sandwich_widths: list[int] | None = field(default=None, metadata={"help": "Widths it is drawn from."})
    auxiliary_weight: float = field(
        default=1.0, metadata={"help": "Weight of the auxiliary model beside it; 0 trains the drawn descendant alone."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise UnknownOptionError(f"alpha lies between 0 (labels only) and 1 (teacher only); it was {self.alpha}.")
        if not self.temperature > 0:
            raise UnknownOptionError(f"temperature is above 0; it was {self.temperature}.")
        if self.distillation not in DISTILLATIONS:
            raise UnknownOptionError(
                f"distillation is one of {', '.join(DISTILLATIONS)}; it was {self.distillation!r}."
            )
        for name in ("hidden_states_weight", "relations_weight", "sandwich_weight", "auxiliary_weight"):
            if not getattr(self, name) >= 0:
                raise UnknownOptionError(f"{name} is 0 (off) or above; it was {getattr(self, name)}.")
        if self.auxiliary_weight != 1 and not self.sandwich_weight:
            raise UnknownOptionError(
                f"auxiliary_weight={self.auxiliary_weight} weighs the auxiliary model against the descendant of sandwich_weight, "
                "which is 0 (off): set that too."
            )
        if not self.auxiliary_weight and self.hidden_states_weight + self.relations_weight:
            raise UnknownOptionError(
                "hidden_states_weight and relations_weight compare layers of the auxiliary model, and auxiliary_weight=0 leaves "
                "that out. Turn them off, or give it a weight."
            )
        if self.cache_teacher and (self.needs_hidden_states or self.relations_weight):
            raise UnknownOptionError(
                "cache_teacher keeps logits only; hidden states, features and relations need the teacher at each step. Turn "
                "one of them off."
            )

    @property
    def needs_hidden_states(self) -> bool:
        """Whether both models must give their hidden states."""
        return self.hidden_states_weight > 0 or self.distillation in ("features", "embeddings")
