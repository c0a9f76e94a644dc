"""Threads that share one piece of work; locks between processes; processes of our own.

One deletes behind, one works in the user namespace of an ordinary user.
"""
