"""`python -m flava` is the `flava` command: for torchrun, or where scripts are not on the path."""

import sys

from flava.cli import main

sys.exit(main())
