"""Ways to draw x_1: `ancestral` has a computable law (rollouts), `low_confidence` has none (evaluation)."""
