"""Tokenizers of every kind, trained on a few lines, and random models that go with them."""

from __future__ import annotations

import functools
import json

import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertTokenizer,
    BertTokenizer,
    DebertaTokenizer,
    DebertaV2Tokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from testing.families import tiny_model


PROSE = """the seed of a larger tree is planted in the garden behind the house
larger trees give more shade than smaller ones and the gardeners planted three
smaller seeds were planted later, and most of them gave smaller trees
shaded gardens are behind the oldest houses of the town, 12 of them
nobody planted the oldest tree; it planted itself in 1785
a house without a garden gives no shade and nobody is gardening there
the planting of seeds is the gardener's greatest pleasure, says the gardener
three houses later the town ends and the unplanted land begins""".splitlines()
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@functools.cache
def trained(kind: str, size: int, specials: tuple[str, ...] = (), suffix: str | None = None):
    """The `model` of a tokenizer.json."""
    asked = {"vocab_size": size, "special_tokens": list(specials), "show_progress": False}
    if kind == "WordPiece":
        core, before = Tokenizer(models.WordPiece(unk_token="[UNK]")), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(**asked)
    elif kind == "WordLevel":
        core, before = Tokenizer(models.WordLevel(unk_token="[UNK]")), pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(**asked)
    elif kind == "Unigram":
        core, before = Tokenizer(models.Unigram()), pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(**asked, unk_token=specials[-1])
    elif suffix:
        core, before = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix=suffix)), pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(**asked, end_of_word_suffix=suffix)
    else:
        core, before = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(**asked, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    core.pre_tokenizer = before
    core.train_from_iterator(PROSE, trainer)
    return json.loads(core.to_str())["model"]


def bert():
    return BertTokenizer(trained("WordPiece", 160, tuple(BERT))["vocab"])


def _of_bytes(cls, *specials):
    model = trained("BPE", 400, specials)
    return cls(model["vocab"], [tuple(merge) for merge in model["merges"]])


def roberta():
    return _of_bytes(RobertaTokenizer, *ROBERTA)


def deberta():
    return _of_bytes(DebertaTokenizer, "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


def _scored(*first):
    """Scored pieces, some special ones first."""
    pieces = [tuple(piece) for piece in trained("Unigram", 160, ("<unk>",))["vocab"][1:]]
    return [*((piece, 0.0) for piece in first), *pieces]


def albert():
    return AlbertTokenizer(_scored("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))


def deberta_v2():
    return DebertaV2Tokenizer(_scored("[PAD]", "[CLS]", "[SEP]", "[UNK]"))  # [MASK] comes behind the pieces


def xlm_roberta():
    return XLMRobertaTokenizer([*_scored("<s>", "<pad>", "</s>", "<unk>"), ("<mask>", 0.0)])


def _core(model):
    return Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))


def modernbert():
    """The special tokens stand behind the others, and so does the padding."""
    core = _core(trained("BPE", 400))
    core.pre_tokenizer, core.normalizer = pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC()
    specials = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    core.add_special_tokens([AddedToken(token, lstrip=token == "[MASK]") for token in specials])
    ids = [(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ids)
    return PreTrainedTokenizerFast(tokenizer_object=core, **_named(BERT))


def words():
    core = _core(trained("WordLevel", 160, tuple(BERT)))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=core, **_named(BERT))


def letters():
    """A BPE over characters whose words end in a sign of their own."""
    core = _core(trained("BPE", 120, ("[PAD]", "[UNK]"), "</w>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]")


def _named(tokens):
    return dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), tokens, strict=True))


KINDS = {f.__name__: f for f in (bert, roberta, deberta, albert, deberta_v2, xlm_roberta, modernbert, words, letters)}
FAMILIES = {
    "bert": ("Bert", bert), "electra": ("Electra", bert), "distilbert": ("DistilBert", bert), "roberta": ("Roberta", roberta),
    "deberta": ("Deberta", deberta), "albert": ("Albert", albert), "deberta-v2": ("DebertaV2", deberta_v2),
    "xlm-roberta": ("XLMRoberta", xlm_roberta), "modernbert": ("ModernBert", modernbert),
}  # fmt: skip


def model_for(family: str, tokenizer, head: str = "ForMaskedLM", rows: int = 0, **extra):
    """A random model of the family with the tokenizer's ids in its config, and `rows` more than it has tokens."""
    names = ("pad", "bos", "eos", "cls", "sep", "mask")
    ids = {f"{n}_token_id": i for n in names if (i := getattr(tokenizer, f"{n}_token_id")) is not None}
    return tiny_model(family, FAMILIES[family][0] + head, {"vocab_size": len(tokenizer) + rows, **ids, **extra})


def logits(model, tokenizer, texts=PROSE):
    with torch.no_grad():
        return model(
            **tokenizer(list(texts), padding=True, truncation=True, max_length=36, return_tensors="pt")
        ).logits
