"""What is known of hidden pixels: real tissue of the same slide that may stand in a hole."""
