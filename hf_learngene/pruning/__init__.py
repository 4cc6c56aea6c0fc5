"""What calibration needs: examples, what a model computes on them, what of it is kept, and the refit around it."""
