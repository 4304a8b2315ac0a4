"""What a feature declaration contains, changes, costs, and gives for one entity."""
