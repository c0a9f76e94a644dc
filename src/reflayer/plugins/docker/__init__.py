"""Docker's graph-driver plugin protocol: HTTP at a Unix socket, for Docker Engine up to 27."""
