"""Trees by descriptor: open folders to any depth, read an entry's facts, set them.

No path is looked up twice, and no link inside a tree is followed. The standard library is all that
this package needs.
"""
