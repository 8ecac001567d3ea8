"""Models and their processors."""
