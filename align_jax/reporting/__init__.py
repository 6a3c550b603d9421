"""The page that a run leaves: its files read, its time told apart, its curves drawn, all of it escaped."""
