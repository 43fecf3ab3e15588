"""The science of avemo: models, losses, metrics and the pure training step of each stage."""

__version__ = "0.1.0"
