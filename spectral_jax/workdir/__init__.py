"""The folder that a run leaves: who may write it, its checkpoints, its logs."""
