"""Train the emoji FluxPipeline that ships with puredit, from nothing, on a CPU."""
