"""The owner of all budgets: what lanes report and what people change goes in, grants and recalls come out. Pure."""
