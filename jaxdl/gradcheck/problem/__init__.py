"""The function, its arguments, what they promise; other points and other sizes."""
