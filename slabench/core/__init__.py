"""The ground that all other rooms stand on: errors, paths, seeds, files and the registry."""
