"""How each method makes a target from a source. One file per method; `register_method` makes it known by its name."""

from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.bert2bert import Bert2BERT
from hf_learngene.methods.calibrated import Calibrated
from hf_learngene.methods.front import Front
from hf_learngene.methods.hyperclone import HyperClone
from hf_learngene.methods.l2 import L2
from hf_learngene.methods.layers import Layers
from hf_learngene.methods.learned import LearnedGrowth
from hf_learngene.methods.lemon import Lemon
from hf_learngene.methods.ligo import Ligo
from hf_learngene.methods.mango import Mango
from hf_learngene.methods.minitron import Minitron
from hf_learngene.methods.pruning_method import PruningMethod
from hf_learngene.methods.random import Random
from hf_learngene.methods.registry import METHODS, make_method, register_method, registered_methods
from hf_learngene.methods.shortgpt import ShortGPT
from hf_learngene.methods.stack import Stack
from hf_learngene.methods.taylor import Taylor
from hf_learngene.methods.tile import Tile
from hf_learngene.methods.wanda import Wanda
from hf_learngene.methods.weight_selection import WeightSelection


__all__ = [
    "L2",
    "METHODS",
    "Bert2BERT",
    "Calibrated",
    "Front",
    "HyperClone",
    "Layers",
    "LearnedGrowth",
    "Lemon",
    "Ligo",
    "Mango",
    "Method",
    "Minitron",
    "Paper",
    "PruningMethod",
    "Random",
    "ShortGPT",
    "Stack",
    "Taylor",
    "Tile",
    "Wanda",
    "WeightSelection",
    "make_method",
    "register_method",
    "registered_methods",
]
