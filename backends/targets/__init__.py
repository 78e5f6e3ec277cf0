"""What each target brings, one folder a target; nothing outside of this folder and of a target family's own knows their names."""
