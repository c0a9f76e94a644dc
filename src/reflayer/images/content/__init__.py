"""The blob store, and how an image gets into it: found by its manifest, fetched, checked, kept."""
