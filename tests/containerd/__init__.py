"""The snapshots' service, asked by a gRPC client of the same messages."""
