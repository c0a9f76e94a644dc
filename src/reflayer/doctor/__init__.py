"""What a folder's file system, and a Docker daemon's data root, are like for layers."""
