"""Bands that hold every anchor gradient, and the losses' exact optima."""
