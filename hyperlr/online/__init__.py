"""Online hypergradient methods: HD, RTHO, MARTHE."""
