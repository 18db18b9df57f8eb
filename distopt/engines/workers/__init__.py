"""Blocks of agents: their rounds, what they exchange, and who leads them."""
