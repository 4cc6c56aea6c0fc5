"""What a narrower residual stream holds: directions of it where norms allow it, and then as much as there is."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration.examples import Examples
from hf_learngene.pruning.stream import ResidualStream, rotates_between_norms
from testing.examples import examples_for
from testing.families import inputs_for, tiny_model


WIDE, FEW = 24, 15


def in_few_directions():
    """A BERT whose residual stream lies in `FEW` directions of mean 0, along no entry; its norms scale all entries alike."""
    model = tiny_model("bert", "BertForTokenClassification")
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(WIDE, FEW, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(drawn - drawn.mean(0)).Q
    inside = basis @ basis.T
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "LayerNorm" in name:
                value.fill_(0.0 if name.endswith("bias") else 1.5)
            elif "embeddings" in name:
                value.copy_(value @ inside)
            elif ".output.dense" in name:
                value.copy_(inside @ value)
    return model


def narrowed(model, width):
    with Examples(examples_for(model), model) as examples, torch.no_grad():
        return ResidualStream(model, anatomy_of(model.config, type(model)), examples).narrowed(width)


def test_directions_of_a_post_norm_stream_are_kept_whole():
    source = in_few_directions()
    sizes = {"hidden_size": FEW + 1, "num_attention_heads": 2, "intermediate_size": 40}
    with torch.no_grad():  # the head that leaves does nothing
        for layer in source.bert.encoder.layer:
            layer.attention.output.dense.weight[:, 8:16] = 0
    made = resize(source, calibration=examples_for(source), **sizes)
    inputs = inputs_for(source)
    with torch.no_grad():
        wanted, found = source(**inputs).logits, made(**inputs).logits
    assert float((found - wanted).norm() / wanted.norm()) < 1e-8
    assert made.config.hidden_size == FEW + 1


def test_entries_are_kept_where_directions_would_lose():
    source = tiny_model("bert", "BertForTokenClassification")
    grown = resize(source, method="lemon", hidden_size=48)
    assert rotates_between_norms(anatomy_of(grown.config, type(grown)))
    stream = narrowed(grown, 24)  # copies of entries, each scaled by itself
    assert stream.rotation is None
    assert len({int(i) % 24 for i in stream.coordinates}) == 24


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForTokenClassification"])
def test_a_tied_decoder_reads_entries(name):
    anatomy = anatomy_of((model := tiny_model("bert", name)).config, type(model))
    assert rotates_between_norms(anatomy) == (name != "BertForMaskedLM")
