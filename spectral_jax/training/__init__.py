"""What a run is made of: mesh, state, step, batches, loop, checkpoints, logs and pictures."""
