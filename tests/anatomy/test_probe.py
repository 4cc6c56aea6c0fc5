"""Fields that count rows are probed in one build, and one by one where that build leaves open which dimension followed which."""

from __future__ import annotations

import pytest
import transformers
from torch import nn

from hf_learngene.anatomy import probe
from hf_learngene.anatomy.probe import Prober, build


SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40,
    "max_position_embeddings": 32,
}  # fmt: skip
COUNTS = set(probe._STEPS)


class OwnHead(transformers.BertModel):
    """Its classifier has a row for each pair of token types, so that it grows by no field's own step."""

    def __init__(self, config):
        super().__init__(config)
        self.pairs = nn.Linear(config.hidden_size, config.type_vocab_size**2)


def probed(model_class: type, config: transformers.PreTrainedConfig) -> tuple[dict, list[set]]:
    """What follows which count, and the names of those that each build changed."""
    prober = Prober(model_class, config, "", build(model_class, config))
    seen, built = [], prober._built
    prober._built = lambda values: seen.append(set(values) & COUNTS) or built(values)
    prober.run()
    effects = {n: [{f: e.delta / e.step for f, e in d.items()} for d in dims] for n, dims in prober.effects.items()}
    return effects, [s for s in seen if s]


@pytest.mark.parametrize("name", ["Bert", "Roberta", "LayoutLMv3", "Electra", "DistilBert"])
def test_together_they_show_what_they_show_alone(name, monkeypatch):
    config = getattr(transformers, f"{name}Config")(**SMALL)
    model_class = getattr(transformers, f"{name}Model")
    together, builds = probed(model_class, config)
    monkeypatch.setattr(Prober, "try_counts", lambda *given: False)
    alone, more = probed(model_class, config)
    assert together == alone
    assert any(
        effects.keys() & {"vocab_size", "max_position_embeddings"} for dims in alone.values() for effects in dims
    )
    if len(more) > 1:
        assert len(builds) == 1


def test_a_dimension_that_takes_another_step_is_looked_at_alone():
    effects, builds = probed(OwnHead, transformers.BertConfig(**SMALL, type_vocab_size=2))
    assert builds[0] == {"vocab_size", "max_position_embeddings", "type_vocab_size"}
    assert builds[1:] == [{"vocab_size"}, {"max_position_embeddings"}, {"type_vocab_size"}]
    assert effects["pairs.weight"][0] == {"type_vocab_size": (90**2 - 4) / 88}


def test_no_step_is_the_sum_of_others():
    from itertools import combinations

    steps = list(probe._STEPS.values())
    sums = [sum(some) for size in range(1, 5) for some in combinations(steps, size)]
    assert len(set(sums)) == len(sums) == 15
