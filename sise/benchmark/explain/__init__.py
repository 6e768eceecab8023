"""Your own image: maps, pictures, files."""
