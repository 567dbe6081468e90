"""`python -m qilin_rag` is the same as the console script `qilin-rag`."""

import sys

try:
    from qilin_rag.cli import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    main()
