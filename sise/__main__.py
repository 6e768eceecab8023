"""The command ``sise``: ``sise explain image=cat.jpg``; ``python -m sise`` is the same."""

import sys

from sise.extras import MissingExtra


def main() -> None:
    """Runs ``sise <command> ...``; exit code 2 and one sentence where only the core is installed."""
    try:
        from sise.benchmark.commands import dispatch
    except MissingExtra as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    dispatch.main()


if __name__ == "__main__":
    main()
