"""Private foundations: trees, checks, numerics. Nothing here is public."""
