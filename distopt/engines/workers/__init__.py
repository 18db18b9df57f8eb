"""Workers: each runs the rounds of a block of agents and exchanges rows with others."""
