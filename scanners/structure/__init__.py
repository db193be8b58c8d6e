"""What is inside a container, counted for real."""
