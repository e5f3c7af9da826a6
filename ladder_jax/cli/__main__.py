"""`python -m ladder_jax.cli COMMAND`."""

import sys

from ladder_jax.cli import main

sys.exit(main())
