"""What the tests share: tiny models and checkpoints, a Hub on loopback, processes to launch."""

from pathlib import Path


ROOT = Path(__file__).parents[2]
