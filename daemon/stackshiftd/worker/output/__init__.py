"""What runs print: where it is caught, whose it is, and the file that it goes to."""
