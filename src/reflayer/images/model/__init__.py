"""What an image is, by OCI and Docker: reference, descriptor, manifest, config, platform."""
