"""What the tests share: small problems with known answers, and processes that they start."""
