"""One file per experiment: its configuration, its initial state, its pure training and evaluation steps."""
