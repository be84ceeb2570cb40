"""What goes out: the same slide with its painted patches, verified and declared."""
