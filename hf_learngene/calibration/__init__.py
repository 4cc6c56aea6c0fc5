"""Calibration examples: what people give, or what is made up for them, as batches of the model's own inputs."""
