"""The calls of the public face that are no more than one call of what lies below; `qilin_rag` exports them."""
