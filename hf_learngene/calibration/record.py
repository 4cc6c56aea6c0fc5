"""What a model was calibrated on, for its record and for the log."""

from __future__ import annotations

from typing import Any

from hf_learngene.calibration.examples import Examples


GIVEN, SYNTHETIC, BOTH = "given", "synthetic", "given and synthetic"
_SHOWN = {GIVEN: "examples", SYNTHETIC: "made-up examples, without any data", BOTH: "examples, some of them made up"}


def record_of(examples: Examples) -> dict[str, Any]:
    """The entry `calibration` of `config.learngene`: where examples came from, how many they were, and their tokens."""
    origin = GIVEN if not examples.made_up_count else BOTH if examples.given_count else SYNTHETIC
    return {"examples": origin, "count": examples.given_count + examples.made_up_count, "tokens": examples.tokens}


def told(record: dict[str, Any], agreement: str = "") -> str:
    """A record in a line, with what was found of the result.

    Example:
        >>> told({"examples": "synthetic", "count": 512, "tokens": 8704}, "agrees with it on 93.8 % of 64 others")
        'Calibrated on 512 made-up examples, without any data: it agrees with it on 93.8 % of 64 others. A few hundred of your
        own (calibration=) do better.'
        >>> told({"examples": "given and synthetic", "count": 512, "tokens": 8704})
        'Calibrated on 512 examples, some of them made up. More of your own (calibration=, calibration_size=) would take the
        place of those.'
    """
    better = {
        GIVEN: "",
        SYNTHETIC: " A few hundred of your own (calibration=) do better.",
        BOTH: " More of your own (calibration=, calibration_size=) would take the place of those.",
    }
    line = f"Calibrated on {record['count']:,} {_SHOWN[record['examples']]}{f': it {agreement}' if agreement else ''}."
    return line + better[record["examples"]]
