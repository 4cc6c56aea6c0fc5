"""What a model was calibrated on, for its record and for the log."""

from __future__ import annotations

from typing import Any

from hf_learngene.calibration.examples import Examples


GIVEN, SYNTHETIC, BOTH = "given", "synthetic", "given and synthetic"
# what the examples are called on which the result was compared with its source
COMPARED_ON = {
    GIVEN: "held-back examples",
    SYNTHETIC: "held-back made-up examples",
    BOTH: "held-back examples, given and made-up ones",
}


def record_of(examples: Examples) -> dict[str, Any]:
    """The entry `calibration` of `config.learngene`: where examples came from, how many they were, and their tokens."""
    given, made_up = examples.given_count, examples.made_up_count
    origin = GIVEN if not made_up else BOTH if given else SYNTHETIC
    return {"examples": origin, "count": given + made_up, "given": given, "tokens": examples.tokens}


def told(record: dict[str, Any], agreement: str = "") -> str:
    """A record in a line, with what was found of the result.

    Example:
        >>> told({"examples": "synthetic", "count": 512, "given": 0}, "agrees with it on 93.8 % of 64 others")
        'Calibrated on 512 made-up examples, without any data: it agrees with it on 93.8 % of 64 others. A few hundred of your
        own (calibration=, --calibration) do better.'
        >>> told({"examples": "given and synthetic", "count": 1536, "given": 512})
        'Calibrated on 512 examples and 1,024 made-up ones, for those given have too few tokens. More of your own (calibration=,
        calibration_size=) would take the place of those.'
    """
    count, given = record["count"], record["given"]
    shown, better = {
        GIVEN: (f"{count:,} examples", ""),
        SYNTHETIC: (
            f"{count:,} made-up examples, without any data",
            " A few hundred of your own (calibration=, --calibration) do better.",
        ),
        BOTH: (
            f"{given:,} examples and {count - given:,} made-up ones, for those given have too few tokens",
            " More of your own (calibration=, calibration_size=) would take the place of those.",
        ),
    }[record["examples"]]
    return f"Calibrated on {shown}{f': it {agreement}' if agreement else ''}.{better}"
