"""Who hears whom: graphs, weights, and what ``mix`` does."""
