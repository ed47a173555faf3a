"""Samplers: `ancestral` gives the probability of what it draws (rollouts), `low_confidence` does not (evaluation)."""
