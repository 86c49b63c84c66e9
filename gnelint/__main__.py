"""`python -m gnelint`."""

from gnelint.cli import main

main()
