"""Trains a small DCN-V2, alone or as one of several processes: two_processes.py WORLD OUT BATCH_SIZE"""

from __future__ import annotations

import sys
from pathlib import Path

from qilin_rag.data.catalogue import open_catalogue
from qilin_rag.data.requests import read_requests
from qilin_rag.data.source import open_source
from qilin_rag.rankers.training import train_ranker
from tests.rankers.dcn import small

if __name__ == "__main__":
    source = open_source(sys.argv[1])
    train, validation = (read_requests(source, "recommendation", split, 0.1) for split in ("train", "validation"))
    ranker = small(dropout=0.0, batch_size=int(sys.argv[3]), max_steps=8, log_every=1, evaluate_every=4)
    train_ranker(ranker, train, validation, open_catalogue(source), Path(sys.argv[2]))
