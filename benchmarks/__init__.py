"""reflayer beside the other programs that do the same work: one script for each question."""
