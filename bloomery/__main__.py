"""`python -m bloomery` is the command `bloomery`."""

import sys

from bloomery.cli import main

sys.exit(main())
