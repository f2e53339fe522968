"""What gradients are held against: the stripped primal, finite differences, the vote."""
