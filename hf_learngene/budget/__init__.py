"""Budgets of parameters, FLOPs or latency: what counts against one at any sizes, and the sizes that it is spent on."""
