"""`python -m sateen`: the command line."""

import sys

from sateen.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
