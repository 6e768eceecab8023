"""What the tests of runs start from."""

from toy_runs import config

__all__ = ["config"]
