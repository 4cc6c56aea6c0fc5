"""What a model computes on calibration examples, what of it is kept, and the refit around it."""
