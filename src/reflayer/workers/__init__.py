"""Threads that share one piece of work; locks between processes; one that deletes behind."""
