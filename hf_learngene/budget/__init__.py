"""Parameter budgets: counting parameters at any sizes, and spending a budget on sizes."""
