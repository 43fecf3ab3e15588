"""What people run: the `avemo` command, the training loop, checkpoints, evaluation, report and demo."""
