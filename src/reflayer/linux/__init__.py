"""The system calls that Python's ``os`` lacks, typed, each with its man page named."""
