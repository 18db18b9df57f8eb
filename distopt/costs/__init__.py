"""The costs f_t: a scenario's data, and the minimisers x*_t that they are compared with."""
