"""How fast containers are made: methods and other programs, measured side by side."""
