"""Fast ways through the layer's maths: the same numbers, held to the same tests."""
