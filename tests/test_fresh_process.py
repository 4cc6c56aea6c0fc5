"""What a process of its own sees: results without this package, and transformers before and after its import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import hf_learngene
from hf_learngene import ResizableMixin, resize, save_resized
from testing.families import inputs_for, tiny_model
from testing.learngenes import KINDS, fitted
from testing.numerics import assert_close_for


class MyViT(ResizableMixin, transformers.ViTForImageClassification):
    """Known to this process alone."""


SCRIPT = """
import json, sys
import torch, transformers
from transformers.models.auto import auto_factory, configuration_auto, modeling_auto

folder, package = sys.argv[1:]
found = {}
for name, auto in (("vit", transformers.AutoModelForImageClassification), ("bert", transformers.AutoModelForMaskedLM)):
    model, info = auto.from_pretrained(f"{folder}/{name}", output_loading_info=True)
    with torch.no_grad():
        torch.save(model(**torch.load(f"{folder}/{name}-inputs.pt")).logits, f"{folder}/{name}-found.pt")
    found[name] = [type(model).__module__, model.config.learngene["format"], *(len(info[k]) for k in sorted(info) if "keys" in k)]
found["without"] = not any(name.partition(".")[0] == "hf_learngene" for name in sys.modules)

configs = configuration_auto.CONFIG_MAPPING
models = {n: m for n, m in vars(modeling_auto).items() if isinstance(m, auto_factory._LazyAutoMapping)}
def native():
    held = {n: (dict(m._config_mapping), dict(m._model_mapping)) for n, m in models.items()}
    autos = {n: v for n, v in vars(modeling_auto).items() if n.startswith("AutoModel")}
    return (
        dict(configs._mapping), held, [configs[k] for k in ("vit", "bert")], models["MODEL_MAPPING"][configs["vit"]],
        {n: (v._model_mapping, sorted(vars(v))) for n, v in autos.items()},
        sorted(vars(transformers.PreTrainedModel)), sorted(vars(transformers.PreTrainedConfig)),
        transformers.PreTrainedModel.from_pretrained.__func__.__code__,
    )
def added():
    here = {n: sorted(key.model_type for key in m._extra_content) for n, m in models.items() if m._extra_content}
    return {"configs": sorted(configs._extra_content), **here}

before, found["none"], found["mappings"] = native(), added(), len(models)
sys.path.insert(0, package)
import hf_learngene.learngenes

found["cli"] = [n for n in ("typer", "hf_learngene.cli") if n in sys.modules]
learngene = transformers.AutoModel.from_pretrained(f"{folder}/wave")
config = transformers.AutoConfig.from_pretrained(f"{folder}/wave")
found["learngene"] = [type(learngene).__name__, config.model_type]
import hf_learngene.learngenes

found["native"], found["added"] = native() == before, added()
found["offers"] = "from_pretrained_resized" in dir(hf_learngene.AutoModel)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fresh")


@pytest.fixture(scope="module")
def wanted(folder):
    """The logits of what is saved to `folder`, as this process computes them."""
    vit = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    bert = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    mine = resize(
        MyViT.from_pretrained(None, config=vit.config, state_dict=vit.state_dict()), hidden_size=16, num_labels=3
    )
    assert type(mine) is MyViT
    mine.save_pretrained(folder / "vit")
    small = resize(bert, hidden_size=16, num_hidden_layers=2)
    save_resized(small, folder / "bert")
    fitted("wave").save_pretrained(folder / "wave")
    logits = {}
    for name, model in (("vit", mine), ("bert", small)):
        inputs = inputs_for(model)
        torch.save(inputs, folder / f"{name}-inputs.pt")
        logits[name] = model(**inputs).logits.detach()
    return logits


@pytest.fixture(scope="module")
def found(folder, wanted):
    """What one such process saw: to start it costs more than all that it does."""
    package = Path(hf_learngene.__file__).parent.parent
    command = [sys.executable, "-c", SCRIPT, str(folder), str(package)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_plain_transformers_loads_a_result_and_computes_the_same(found, wanted, folder, name):
    module, record, *lost = found[name]
    assert module == f"transformers.models.{name}.modeling_{name}"
    assert record == 1
    assert lost
    assert not any(lost), "keys that are missing, unexpected or mismatched"
    assert found["without"]
    assert_close_for(torch.load(folder / f"{name}-found.pt"), wanted[name])


def test_the_import_loads_no_command_line(found):
    assert found["cli"] == []
    assert found["offers"]


def test_transformers_loads_a_learngene_after_one_import(found):
    assert found["learngene"] == ["WaveLearngene", "learngene_wave"]


def test_transformers_own_mappings_are_untouched(found):
    assert found["mappings"] > 20
    assert found["native"]
    assert found["none"] == {"configs": []}
    ours = sorted(f"learngene_{kind}" for kind in KINDS)
    assert found["added"] == {"configs": ours, "MODEL_MAPPING": ours}
