"""Rules of batch selection against each other: the runs, the table, the page."""
