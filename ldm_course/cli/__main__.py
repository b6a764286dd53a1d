"""`python -m ldm_course.cli`, which `accelerate launch` takes as well."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
