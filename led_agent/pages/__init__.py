"""Trees for the eye: what pages in a browser show of them, as a file and live."""
