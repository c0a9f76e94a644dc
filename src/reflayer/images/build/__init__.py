"""What is made anew of images: a layer's blob, the config of a commit, a manifest."""
