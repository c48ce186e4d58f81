"""How well routing decides, against baselines, bounds and cases worked out by hand."""
