"""Do the tables of the Qilin paper with one command: the parts, what each needs, and one page of all of them."""
