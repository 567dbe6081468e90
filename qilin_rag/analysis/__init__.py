"""What is in the data: the paper's section 4 as figures, beside what the paper printed."""
