"""What the package does with whatever it is given: drawn cases, and the properties that all of them have."""
