"""The protocols that engines speak, each a thin translation onto the driver, and what they share.

Here is what they share: a socket, threads for the work, logs, metrics, a start and a stop.
"""
