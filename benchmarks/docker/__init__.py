"""Docker's daemon with its layers in reflayer's plugin, beside the same with its own vfs driver."""
