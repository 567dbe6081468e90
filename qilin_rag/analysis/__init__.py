"""Analysis of a data set: the figures of the paper's section 4, beside the printed ones."""
