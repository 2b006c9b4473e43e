"""Which examples form which batch, and how they reach the devices."""
