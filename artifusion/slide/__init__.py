"""What comes in: slides and images, read in numpy."""
