"""What a plan costs grows with the number of layers, not with its square. Counted in calls, not in seconds."""

from __future__ import annotations

import sys

import pytest
import transformers

from hf_learngene import plan
from hf_learngene.anatomy import anatomy_of
from testing.families import tiny_config


pytestmark = pytest.mark.not_numeric


def calls(action):
    """Calls of Python and of C functions."""
    count = 0

    def seen(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(("kind", "name"), [("vit", "ViTModel"), ("bert", "BertForMaskedLM")])
def test_growth_is_linear_in_the_depth(kind, name):
    cls = getattr(transformers, name)

    def cost(depth):
        config = tiny_config(kind, cls.main_input_name, num_hidden_layers=depth)
        anatomy_of(config, cls)
        return calls(
            lambda: plan(config, model_class=cls, hidden_size=48, num_hidden_layers=2 * depth, method="lemon")
        )

    cost(5)  # what is cached for good is cached, the proof too
    small, middle, large = cost(10), cost(20), cost(40)
    assert (large - middle) < 2.2 * (middle - small)


def test_a_wide_attention_window_costs_no_more_than_a_narrow_one():
    """Inputs are padded to a whole window: the recorded pass ran over all of it, on the CPU."""
    widths = set()

    class Watched(transformers.LongformerModel):
        def _pad_to_window_size(self, input_ids, *rest, **named):
            padded = super()._pad_to_window_size(input_ids, *rest, **named)
            if input_ids.device.type == "cpu":
                widths.add(padded[1].shape[-1])
            return padded

    anatomy_of(tiny_config("longformer", attention_window=512, max_position_embeddings=600), Watched)
    assert widths
    assert max(widths) <= 64
