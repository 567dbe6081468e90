"""`python -m qilin_rag` is the same as the console script `qilin-rag`."""

from qilin_rag.cli import main

if __name__ == "__main__":
    main()
