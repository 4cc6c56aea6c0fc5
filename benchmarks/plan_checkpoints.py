"""What a plan of the most used encoders costs at their real size, and whether it counts right. No weight is read.

    python benchmarks/plan_checkpoints.py                  # every checkpoint
    python benchmarks/plan_checkpoints.py --only dinov2    # those whose name holds a word

Each config is written down here, as far as it differs from its class' defaults. Of each a shrink to half the width and growths
to twice the depth and twice the width are planned, in one process with nothing cached, growths with their proof. The parameters
that a plan counts are compared with those of its target, built on `meta`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from pathlib import Path
from typing import Any

from jobs import machine, write


HERE = Path(__file__).parent
LIMIT = 5.0  # processor seconds
Checkpoint = tuple[str, dict[str, Any]]  # class, config

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
HUGE = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}
MINI = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
XLM_R = {**ROBERTA, "vocab_size": 250002}
DEBERTA_V3 = {
    "vocab_size": 128100, "max_position_embeddings": 512, "type_vocab_size": 0, "relative_attention": True,
    "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False, "max_relative_positions": -1, "layer_norm_eps": 1e-7, "legacy": False,
}  # fmt: skip
DINO_V2 = {"image_size": 518, "patch_size": 14}
STABLE = {
    "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True, "hidden_size": 1024,
    "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
}  # fmt: skip


def esm(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": 33, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "max_position_embeddings": 1026, "position_embedding_type": "rotary",
        "token_dropout": True, "emb_layer_norm_before": False, "pad_token_id": 1, "mask_token_id": 32, "layer_norm_eps": 1e-5,
    }  # fmt: skip


def whisper(width: int, layers: int, heads: int, mels: int = 80) -> dict[str, Any]:
    return {
        "d_model": width, "encoder_layers": layers, "encoder_attention_heads": heads, "encoder_ffn_dim": 4 * width,
        "decoder_layers": layers, "decoder_attention_heads": heads, "decoder_ffn_dim": 4 * width, "num_mel_bins": mels,
        "num_hidden_layers": layers,
    }  # fmt: skip


CHECKPOINTS: dict[str, Checkpoint] = {
    # texts
    "google-bert/bert-base-uncased": ("BertForMaskedLM", {}),
    "google-bert/bert-large-uncased": ("BertForMaskedLM", LARGE),
    "google-bert/bert-base-multilingual-cased": ("BertForMaskedLM", {"vocab_size": 119547}),
    "dslim/bert-base-NER": ("BertForTokenClassification", {"vocab_size": 28996, "num_labels": 9}),
    "dmis-lab/biobert-base-cased-v1.2": ("BertForPreTraining", {"vocab_size": 28996}),
    "sentence-transformers/all-MiniLM-L6-v2": ("BertModel", {**MINI, "num_hidden_layers": 6}),
    "sentence-transformers/all-MiniLM-L12-v2": ("BertModel", {**MINI, "num_hidden_layers": 12}),
    "cross-encoder/ms-marco-MiniLM-L6-v2": (
        "BertForSequenceClassification", {**MINI, "num_hidden_layers": 6, "num_labels": 1},
    ),
    "BAAI/bge-small-en-v1.5": ("BertModel", {**MINI, "num_hidden_layers": 12}),
    "BAAI/bge-large-en-v1.5": ("BertModel", LARGE),
    "BAAI/bge-m3": ("XLMRobertaModel", {**XLM_R, **LARGE, "max_position_embeddings": 8194}),
    "intfloat/multilingual-e5-small": ("BertModel", {**MINI, "vocab_size": 250037}),
    "intfloat/multilingual-e5-large": ("XLMRobertaModel", {**XLM_R, **LARGE}),
    "thenlper/gte-base": ("BertModel", {}),
    "Alibaba-NLP/gte-multilingual-base": (
        "GteModel", {"vocab_size": 250048, "max_position_embeddings": 8192, "type_vocab_size": 1},
    ),
    "nomic-ai/nomic-embed-text-v1.5": (
        "NomicBertModel", {"vocab_size": 30528, "max_position_embeddings": 2048, "intermediate_size": 3072},
    ),
    "jinaai/jina-embeddings-v3": ("JinaEmbeddingsV3Model", {**LARGE}),
    "FacebookAI/roberta-base": ("RobertaForMaskedLM", ROBERTA),
    "FacebookAI/roberta-large": ("RobertaForMaskedLM", {**ROBERTA, **LARGE}),
    "FacebookAI/xlm-roberta-base": ("XLMRobertaForMaskedLM", XLM_R),
    "FacebookAI/xlm-roberta-large": ("XLMRobertaForMaskedLM", {**XLM_R, **LARGE}),
    "cardiffnlp/twitter-roberta-base-sentiment-latest": ("RobertaForSequenceClassification", {**ROBERTA, "num_labels": 3}),
    "microsoft/codebert-base": ("RobertaModel", ROBERTA),
    "almanach/camembert-base": ("CamembertForMaskedLM", {**ROBERTA, "vocab_size": 32005}),
    "distilbert/distilbert-base-uncased": ("DistilBertForMaskedLM", {}),
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": ("DistilBertForSequenceClassification", {}),
    "distilbert/distilroberta-base": ("RobertaForMaskedLM", {**ROBERTA, "num_hidden_layers": 6}),
    "albert/albert-base-v2": (
        "AlbertForMaskedLM", {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "albert/albert-xxlarge-v2": ("AlbertForMaskedLM", {}),
    "google/electra-small-discriminator": ("ElectraForPreTraining", {}),
    "google/electra-base-discriminator": (
        "ElectraForPreTraining",
        {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "google/electra-large-discriminator": ("ElectraForPreTraining", {**LARGE, "embedding_size": 1024}),
    "microsoft/deberta-base": (
        "DebertaForMaskedLM",
        {"vocab_size": 50265, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
         "position_biased_input": False, "max_relative_positions": -1},
    ),
    "microsoft/deberta-v3-small": (
        "DebertaV2ForMaskedLM",
        {**DEBERTA_V3, "hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "microsoft/deberta-v3-base": (
        "DebertaV2ForMaskedLM",
        {**DEBERTA_V3, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "microsoft/deberta-v3-large": ("DebertaV2ForMaskedLM", {**DEBERTA_V3, **LARGE}),
    "sentence-transformers/all-mpnet-base-v2": (
        "MPNetModel", {"max_position_embeddings": 514, "vocab_size": 30527, "layer_norm_eps": 1e-5},
    ),
    "answerdotai/ModernBERT-base": ("ModernBertForMaskedLM", {}),
    "answerdotai/ModernBERT-large": (
        "ModernBertForMaskedLM",
        {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 2624},
    ),
    "allenai/longformer-base-4096": (
        "LongformerForMaskedLM", {**ROBERTA, "max_position_embeddings": 4098, "attention_window": [512] * 12},
    ),
    "google/bigbird-roberta-base": ("BigBirdForMaskedLM", {"vocab_size": 50358, "max_position_embeddings": 4096}),
    "microsoft/layoutlm-base-uncased": ("LayoutLMForMaskedLM", {}),
    "microsoft/layoutlmv3-base": ("LayoutLMv3ForTokenClassification", {**ROBERTA, "num_labels": 7}),
    "SCUT-DLVCLab/lilt-roberta-en-base": ("LiltForTokenClassification", ROBERTA),
    "YituTech/conv-bert-base": ("ConvBertForMaskedLM", {"embedding_size": 768}),
    "google/mobilebert-uncased": ("MobileBertForMaskedLM", {}),
    # proteins
    "facebook/esm2_t6_8M_UR50D": ("EsmForMaskedLM", esm(6, 320, 20)),
    "facebook/esm2_t33_650M_UR50D": ("EsmForMaskedLM", esm(33, 1280, 20)),
    "facebook/esm2_t36_3B_UR50D": ("EsmForMaskedLM", esm(36, 2560, 40)),
    # images
    "google/vit-base-patch16-224": ("ViTForImageClassification", {"num_labels": 1000}),
    "google/vit-large-patch16-224": ("ViTForImageClassification", {**LARGE, "num_labels": 1000}),
    "google/vit-huge-patch14-224-in21k": ("ViTModel", {**HUGE, "patch_size": 14}),
    "facebook/deit-small-patch16-224": (
        "ViTForImageClassification",
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 1000},
    ),
    "facebook/deit-base-distilled-patch16-224": ("DeiTForImageClassificationWithTeacher", {"num_labels": 1000}),
    "microsoft/beit-base-patch16-224": (
        "BeitForImageClassification",
        {"num_labels": 1000, "use_relative_position_bias": True, "layer_scale_init_value": 0.1},
    ),
    "facebook/dinov2-small": (
        "Dinov2Model", {**DINO_V2, "hidden_size": 384, "num_attention_heads": 6},
    ),
    "facebook/dinov2-base": ("Dinov2Model", DINO_V2),
    "facebook/dinov2-large": (
        "Dinov2Model", {**DINO_V2, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
    "facebook/dinov2-giant": (
        "Dinov2Model",
        {**DINO_V2, "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
    ),
    "facebook/dinov2-with-registers-base": ("Dinov2WithRegistersModel", DINO_V2),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": (
        "DINOv3ViTModel",
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
         "num_register_tokens": 4},
    ),
    "facebook/ijepa_vith14_1k": ("IJepaModel", {**HUGE, "patch_size": 14}),
    "facebook/vit-mae-base": ("ViTMAEForPreTraining", {}),
    "facebook/vit-msn-small": ("ViTMSNModel", {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}),
    "hustvl/yolos-small": (
        "YolosForObjectDetection",
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "image_size": (512, 864),
         "use_mid_position_embeddings": True, "num_labels": 91},
    ),
    "openai/clip-vit-base-patch32": ("CLIPVisionModel", {}),
    "openai/clip-vit-base-patch16": ("CLIPVisionModel", {"patch_size": 16}),
    "openai/clip-vit-large-patch14": ("CLIPVisionModel", {**LARGE, "patch_size": 14}),
    "google/siglip-base-patch16-224": ("SiglipVisionModel", {}),
    "google/siglip-so400m-patch14-384": (
        "SiglipVisionModel",
        {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304,
         "image_size": 384, "patch_size": 14},
    ),
    "google/siglip2-base-patch16-naflex": ("Siglip2VisionModel", {}),
    # images beside texts, videos and sounds
    "dandelin/vilt-b32-finetuned-vqa": ("ViltForQuestionAnswering", {"image_size": 384, "patch_size": 32, "num_labels": 3129}),
    "MCG-NJU/videomae-base": ("VideoMAEForVideoClassification", {"num_labels": 400}),
    "google/vivit-b-16x2-kinetics400": ("VivitForVideoClassification", {"num_labels": 400}),
    "facebook/timesformer-base-finetuned-k400": ("TimesformerForVideoClassification", {"num_labels": 400}),
    "MIT/ast-finetuned-audioset-10-10-0.4593": ("ASTForAudioClassification", {"num_labels": 527}),
    "facebook/wav2vec2-base-960h": ("Wav2Vec2ForCTC", {}),
    "facebook/wav2vec2-large-xlsr-53": ("Wav2Vec2ForCTC", STABLE),
    "facebook/hubert-base-ls960": ("HubertModel", {}),
    "facebook/hubert-large-ll60k": ("HubertModel", STABLE),
    "microsoft/wavlm-base-plus": ("WavLMModel", {}),
    "microsoft/wavlm-large": ("WavLMModel", STABLE),
    "facebook/w2v-bert-2.0": ("Wav2Vec2BertModel", {}),
    "openai/whisper-tiny": ("WhisperForAudioClassification", whisper(384, 4, 6)),
    "openai/whisper-large-v3": ("WhisperForAudioClassification", whisper(1280, 32, 20, 128)),
    "facebook/vjepa2-vitl-fpc64-256": ("VJEPA2Model", {}),
    # encoders under a head, or beside others
    "LiheYoung/depth-anything-small-hf": ("DepthAnythingForDepthEstimation", {}),
    "Intel/zoedepth-nyu-kitti": ("ZoeDepthForDepthEstimation", {}),
    "Salesforce/blip-itm-base-coco": ("BlipForImageTextRetrieval", {}),
    "facebook/sam-vit-base": ("SamModel", {}),
}  # fmt: skip
# of a class of several parts: whose sizes change
SECTIONS = {"Salesforce/blip-itm-base-coco": "text_config", "facebook/sam-vit-base": "vision_config"}


def config_of(name: str) -> tuple[type[Any], Any]:
    """The class of a checkpoint and its config."""
    import transformers

    class_name, values = CHECKPOINTS[name]
    model_class = getattr(transformers, class_name)
    return model_class, model_class.config_class(**values)


def requests_of(anatomy: Any, section: str | None = None) -> dict[str, dict[str, Any]]:
    """What is planned: the shrink, and the growths."""
    width, heads, layers = (anatomy.sizes[n] for n in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    half = {"hidden_size": width // 2, **({} if heads % 2 == 0 else {"num_attention_heads": heads})}
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "half the width": ("weight_selection", half),
        "twice the depth": ("lemon", {"num_hidden_layers": 2 * layers}),
        "twice the width": ("lemon", {"hidden_size": 2 * width}),
    }
    return {
        what: {"method": method, **({section: sizes} if section else sizes)} for what, (method, sizes) in asked.items()
    }


def forget() -> None:
    """Empties what the package keeps for a process: one checkpoint's config may be another's."""
    from hf_learngene.anatomy import infer
    from hf_learngene.resizing import proof

    for cache in (infer._CACHE, infer._LIKE, proof._VERDICTS, proof._MIXED):
        cache.clear()


def row(name: str) -> dict[str, Any]:
    """Processor seconds of one checkpoint's anatomy and plans; a refusal stands as its first sentence."""
    from hf_learngene import plan
    from hf_learngene.anatomy import anatomy_of
    from hf_learngene.anatomy.probe import build
    from hf_learngene.errors import LearngeneError

    forget()
    model_class, config = config_of(name)
    # a collection goes over all that was ever imported and falls on whatever runs: 0.2 s; what is made here still counts
    gc.collect()
    gc.freeze()
    began = time.process_time()
    try:
        anatomy = anatomy_of(config, model_class, SECTIONS.get(name))
    except LearngeneError as error:
        return {"name": name, "class": model_class.__name__, "refused": str(error)[:300]}
    found: dict[str, Any] = {
        "name": name, "class": model_class.__name__, "parameters": anatomy.num_parameters,
        "anatomy": time.process_time() - began, "plans": {},
    }  # fmt: skip
    for what, request in requests_of(anatomy, SECTIONS.get(name)).items():
        began = time.process_time()
        try:
            made = plan(config, model_class=model_class, **request)
        except LearngeneError as error:
            found["plans"][what] = {"seconds": time.process_time() - began, "refused": str(error)[:300]}
            continue
        took = time.process_time() - began
        target = build(model_class, made.target_config)
        counted = sum(p.numel() for p in target.parameters())
        found["plans"][what] = {
            "seconds": took,
            "parameters": made.num_parameters,
            "right": made.num_parameters == counted,
        }
    return found


def seconds(found: dict[str, Any]) -> float:
    """Of a checkpoint: its anatomy and the slowest plan after it."""
    return float(found["anatomy"] + max(p["seconds"] for p in found["plans"].values()))


def report(rows: list[dict[str, Any]], head: dict[str, Any]) -> str:
    planned = [r for r in rows if "plans" in r]
    wrong = [f"{r['name']}, {w}" for r in planned for w, p in r["plans"].items() if p.get("right") is False]
    slow = [r["name"] for r in planned if seconds(r) > LIMIT]
    lines = ["# Plans of the most used encoders at their real size", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        f"- {len(rows)} checkpoints, {len(planned)} planned; wrongly counted: {', '.join(wrong) or 'none'}",
        f"- anatomy and the slowest plan above {LIMIT:.0f} s: {', '.join(slow) or 'none'}",
        "",
        "Processor seconds, with nothing cached but imports: the anatomy, then each plan after it, growths with their proof.",
        "What cannot be grown exactly is refused, and is no failure (layers that share their weights). No weight is read.",
        "",
        "| checkpoint | class | parameters | anatomy | half the width | twice the depth | twice the width |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in planned:
        plans = (f"{p['seconds']:.2f}{' refused' if 'refused' in p else ''}" for p in r["plans"].values())
        lines.append(
            f"| {r['name']} | {r['class']} | {r['parameters'] / 1e6:.1f} M | {r['anatomy']:.2f} | {' | '.join(plans)} |"
        )
    refusals = [
        f"- {r['name']}, {w}: {p['refused']}" for r in planned for w, p in r["plans"].items() if "refused" in p
    ]
    refusals += [f"- {r['name']}: {r['refused']}" for r in rows if "refused" in r]
    return "\n".join([*lines, "", "What is refused:", "", *(refusals or ["- nothing"])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="checkpoints whose name holds one of these")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import BertConfig, BertModel, logging

    from hf_learngene import plan

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    # what is done once for a process: the first functions and classes
    plan(BertConfig(num_hidden_layers=1), model_class=BertModel, method="lemon", num_hidden_layers=2)
    head = {"command": "python benchmarks/plan_checkpoints.py", **machine()}
    path = options.output / "plan_checkpoints.json"
    chosen = [name for name in CHECKPOINTS if any(part in name for part in options.only)]
    saved = json.loads(path.read_text()) if path.exists() else {}
    kept = {r["name"]: r for r in (saved.get("rows", []) if saved.get("head") == head else [])}
    for name in chosen:
        kept[name] = row(name)
        print(json.dumps(kept[name]), flush=True)
    rows = [kept[name] for name in CHECKPOINTS if name in kept]
    write(path, json.dumps({"head": head, "rows": rows}, indent=1))
    write(path.with_suffix(".md"), report(rows, head))


if __name__ == "__main__":
    main()
