"""One check a file, named as the report names it, and the levels that choose among them."""
