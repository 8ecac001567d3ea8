"""The Trainer and what it needs."""
