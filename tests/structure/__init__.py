"""What the machine keeps: layout, imports, purity, documentation and packaging."""
