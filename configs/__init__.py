"""One short file a data set; each returns a config filled from `configs.defaults`."""
