"""The contract: layers, factors, reducers, combinators, losses. Read `layer` first."""
