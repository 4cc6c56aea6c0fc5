"""Whatever is asked of whatever model, it is refused with a typed error or made right.

A sample of what `benchmarks/faults_properties.py` draws. A case that fails is made smaller, and printed as a call that makes it
again.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.cases import OPTIONS, draw, shares
from faults.properties import check
from hf_learngene.methods import METHODS
from testing.method_tester import NEEDED, shipped


# Of every kind of structure one: an anatomy is probed once a class.
SAMPLE = (
    ("vit", "ViTForImageClassification"),
    ("dinov2", "Dinov2Model"),
    ("clip_vision_model", "CLIPVisionModel"),
    ("bert", "BertForMaskedLM"),
    ("distilbert", "DistilBertForSequenceClassification"),
    ("albert", "AlbertModel"),
    ("electra", "ElectraForMaskedLM"),
    ("deberta-v2", "DebertaV2Model"),
    ("modernbert", "ModernBertForMaskedLM"),
    ("esm", "EsmModel"),
    ("wav2vec2", "Wav2Vec2Model"),
    ("swin", "SwinForImageClassification"),
    ("convnext", "ConvNextModel"),
    ("segformer", "SegformerModel"),
)


@pytest.mark.parametrize(("kind", "name"), SAMPLE, ids=lambda value: value)
def test_whatever_is_asked_for_is_made_right_or_refused(kind, name):
    @settings(max_examples=6, suppress_health_check=list(HealthCheck))
    @given(case=st.randoms(use_true_random=False).map(lambda rng: draw(rng, (kind, {}, name))))
    def holds(case):
        check(case)

    holds()


def test_most_of_what_is_drawn_is_made():
    """Else the cases would say little; and each is drawn from its seed alone."""
    of = ("bert", {}, "BertForSequenceClassification")
    cases = [draw(Random(seed), of) for seed in range(24)]
    assert cases == [draw(Random(seed), of) for seed in range(24)]
    refusals = Counter(check(case) for case in cases)
    assert refusals[""] >= 14, refusals


def test_every_method_and_every_option_is_drawn():
    assert shares().keys() - {"auto"} == {name for name in shipped() if not METHODS[name].learns}
    for name in shares().keys() - {"auto"}:
        assert set(METHODS[name].option_names()) <= {*OPTIONS, *NEEDED.get(name, ({},))[0]}
