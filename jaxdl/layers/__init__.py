"""One family of layers a file: equations, forward, backward, constructor."""
