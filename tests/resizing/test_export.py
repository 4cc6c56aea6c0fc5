"""Resized models leave PyTorch as any other: torch.export and ONNX compute the same, pipelines run from the saved folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.export import Dim
from transformers import ViTImageProcessorPil, pipeline

from hf_learngene import AutoLearngene, resize, save_resized
from testing.checkpoints import save_checkpoint, some_images, words
from testing.families import TEXT, VISION, inputs_for, tiny_model
from testing.family_sizes import SIZES


# float32 sums in another order; the logits are below 10
TOLERANCE = 2e-5


def shrunk(model):
    return resize(model, hidden_size=16, num_hidden_layers=1, method="weight_selection")


def grown(model):
    return resize(model, hidden_size=48, num_hidden_layers=1 + model.config.num_hidden_layers, method="lemon")


def descendant(model):
    learngene = AutoLearngene.from_ancestry(model, "wave", template_size=8, template_share=0.4)
    return learngene.initialize(num_hidden_layers=1 + model.config.num_hidden_layers)


MADE = (shrunk, grown, descendant)


class Together(torch.nn.Module):
    """Models side by side in one graph: what takes time is the start of an exporter, not the graph."""

    def __init__(self, see, read):
        super().__init__()
        self.see, self.read = torch.nn.ModuleList(see), torch.nn.ModuleList(read)

    def forward(self, pixel_values, input_ids, attention_mask):
        seen = [model(pixel_values).logits for model in self.see]
        return *seen, *(model(input_ids, attention_mask).logits for model in self.read)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_exported_programs_and_onnx_compute_the_same(tmp_path):
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    vit = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 1}, torch.float32)
    bert = tiny_model("bert", "BertForMaskedLM", {"num_hidden_layers": 1}, torch.float32)
    models = Together([make(vit) for make in MADE], [make(bert) for make in MADE]).eval()
    inputs = inputs_for(vit, batch=2) | inputs_for(bert, batch=2)
    image, text = {0: Dim("images", max=64)}, {0: Dim("texts", max=64), 1: Dim("length", min=2, max=40)}
    shapes = {"pixel_values": image, "input_ids": text, "attention_mask": text}
    program = torch.export.export(models, (), kwargs=inputs, dynamic_shapes=shapes)
    others = inputs_for(vit, seed=3, batch=5) | {n: t[:, :7] for n, t in inputs_for(bert, seed=3, batch=3).items()}
    with torch.no_grad():
        wanted = models(**others)
    assert 0.1 < max(float(logits.abs().max()) for logits in wanted) < 10
    for made, logits in zip(program.module()(**others), wanted, strict=True):
        torch.testing.assert_close(made, logits, rtol=0, atol=TOLERANCE)

    torch.onnx.export(program, dynamo=True).save(tmp_path / "models.onnx")
    session = ort.InferenceSession(tmp_path / "models.onnx", providers=["CPUExecutionProvider"])
    ran = session.run(None, {name: tensor.numpy() for name, tensor in others.items()})
    for made, logits in zip(ran, wanted, strict=True):
        np.testing.assert_allclose(made, logits.numpy(), rtol=0, atol=TOLERANCE)


TASKS = {
    "image-classification": ("vit", "ViTForImageClassification"),
    "image-feature-extraction": ("vit", "ViTModel"),
    "fill-mask": ("bert", "BertForMaskedLM"),
    "text-classification": ("bert", "BertForSequenceClassification"),
    "token-classification": ("bert", "BertForTokenClassification"),
    "feature-extraction": ("bert", "BertModel"),
}


def through(task, folder, kind):
    """What a pipeline of a saved folder says of one example: its scores, or its features, as numbers."""
    run = pipeline(task, model=str(folder), device="cpu", **({"top_k": None} if task == "text-classification" else {}))
    found = run(some_images(1)[0]) if kind == "vit" else run("[CLS] good [MASK] plot [SEP]")
    rows = found[0] if isinstance(found[0], list) and isinstance(found[0][0], dict) else found
    if isinstance(rows[0], dict):
        return np.array(
            [
                row["score"]
                for row in sorted(rows, key=lambda row: (row.get("index"), row.get("label") or row.get("token")))
            ]
        )
    return np.array(found).squeeze()


@pytest.mark.parametrize("task", TASKS)
def test_pipelines_run_from_the_saved_folder(task, tmp_path):
    kind, name = TASKS[task]
    source = save_checkpoint(tmp_path / "source", kind, name)
    wanted = through(task, tmp_path / "source", kind)
    for make in MADE:
        model = make(source)
        save_resized(model, tmp_path / make.__name__, source=tmp_path / "source")
        found = through(task, tmp_path / make.__name__, kind)
        assert np.isfinite(found).all()
        if make is grown and "feature" not in task:  # the function of its source, whatever the pipeline does around it
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        elif "feature" in task:
            assert found.shape == (*wanted.shape[:-1], model.config.hidden_size)
        else:
            assert np.abs(found - wanted).max() > 1e-4


HEADS = [
    (kind, name)
    for families, head in ((VISION, "ForImageClassification"), (TEXT, "ForSequenceClassification"))
    for kind, names in families.items()
    for name in names
    if name.endswith(head)
]


@pytest.mark.parametrize(("kind", "name"), HEADS, ids=[kind for kind, _ in HEADS])
def test_pipelines_run_on_every_family(kind, name):
    model = resize(tiny_model(kind, name, dtype=torch.float32), hidden_size=48)
    if model.main_input_name == "pixel_values":
        size = {"height": SIZES["image_size"], "width": SIZES["image_size"]}
        run = pipeline(
            "image-classification", model=model, image_processor=ViTImageProcessorPil(size=size), device="cpu"
        )
        found = run(some_images(2), top_k=None)
    else:
        run = pipeline("text-classification", model=model, tokenizer=words(), device="cpu", top_k=None)
        found = run(["good plot", "bad film"])
    assert [len(scores) for scores in found] == [model.config.num_labels] * 2
    assert all(np.isfinite(entry["score"]) for scores in found for entry in scores)
