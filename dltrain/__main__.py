"""``python -m dltrain`` is ``dltrain``."""

import sys

from dltrain.cli.main import main

sys.exit(main())
