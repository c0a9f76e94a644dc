"""containerd's service as messages: two ``.proto`` files, and what is generated from them.

``scripts/protocol`` generates it anew; a test tells when it no longer says what they say.
"""
