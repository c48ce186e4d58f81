"""Both ways of deploy/README.md on a Docker engine: `make containers`."""
