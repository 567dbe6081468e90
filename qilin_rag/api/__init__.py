"""Offer the calls of the public face, which `qilin_rag` exports."""
