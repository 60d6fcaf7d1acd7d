"""``python -m dltrain`` is ``dltrain``."""

import sys

from dltrain.cli import main

sys.exit(main())
