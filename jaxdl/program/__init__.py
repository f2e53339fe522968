"""Any JAX program: the walk over its equations, and the factors of its parameters."""
