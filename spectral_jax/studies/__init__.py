"""Studies: many runs that differ in a few keys of the config, and what they say together."""
