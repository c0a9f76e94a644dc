"""Threads that share one piece of work, and how many processors there are for them."""
