"""Fast implementations of the layer's maths and of the stem's gradient, held to the same tests as the plain ones."""
