"""Closed-form gradients of each anchor's own term."""
