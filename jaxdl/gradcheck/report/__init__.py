"""What was found, as data, text, page and drawings; where a mistake is, and what it is."""
