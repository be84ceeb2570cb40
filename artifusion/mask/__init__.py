"""What is to be restored: the masks of every tool, as polygons, regions and canvases."""
