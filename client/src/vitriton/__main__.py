"""The program `vitriton`, which Ctrl-C ends with one line, also while it is being imported."""

from __future__ import annotations

from vitriton._console.signals import interruptible


def main() -> None:
    """Runs the console script."""
    with interruptible():
        from vitriton.cli import main as run

        run()


if __name__ == "__main__":
    main()
