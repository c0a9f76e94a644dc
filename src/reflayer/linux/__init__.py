"""The system calls that Python's ``os`` lacks: one small file each, typed, the man page named."""
